"""Refuse what another web site sends to a page on this machine: DNS rebinding and cross-site requests.

A site can have its own name lead to this machine, and its scripts then speak to the page as their own origin; only the
Host header tells. A request that names the machine by an address is no such one: the browser took the address from the
person, never from a site's name.
"""

import ipaddress
import socket
from collections.abc import Iterable

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from playground.i18n import LANGUAGES, translate

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class HostCheck:
    """Middleware for a private page. names: further names under which it is opened, such as a proxy's."""

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self._app = app
        self._names = {"localhost", *own_names(), *(name.lower().rstrip(".") for name in names if name)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = host_name(headers.get(b"host", ""))
        is_foreign = headers.get(b"sec-fetch-site") == "cross-site" and scope.get("method") not in SAFE_METHODS
        if self._is_own(host) and not is_foreign:
            await self._app(scope, receive, send)
            return
        text = "\n".join(translate(lang, "host.refused", name=host[:80]) for lang in LANGUAGES)
        await PlainTextResponse(text, 403)(scope, receive, send)

    def _is_own(self, host: str) -> bool:
        return host in self._names or host.endswith(".localhost") or is_address(host)


def own_names() -> set[str]:
    """The names of this machine, in its network too."""
    name = socket.gethostname().lower()
    return {name, name.partition(".")[0], f"{name.partition('.')[0]}.local"} - {""}


def host_name(header: str) -> str:
    """The name or address in a Host header, without the port and the brackets of IPv6, in lower case."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].rstrip(".")


def is_address(host: str) -> bool:
    """Whether it is an IP address as it is usually written."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
