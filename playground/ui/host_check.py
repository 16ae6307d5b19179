"""Refuse what another web site sends: DNS rebinding on a page of this machine, and other sites' calls on every page.

A site can have its own name lead to this machine, and its scripts then speak to the page as their own origin; only the
Host header tells. A request that names the machine by an address is no such one: the browser took the address from the
person, never from a site's name.

Which page sent a call, its browser says in Sec-Fetch-Site, and in Origin where the page is served without encryption;
programs send neither. Another port of this machine is another page too.
"""

import ipaddress
import socket
from collections.abc import Iterable

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from playground.i18n import LANGUAGES, translate

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class HostCheck:
    """Middleware. names: further names under which a private page is opened, such as a proxy's, whose Host header may
    be another one than the browser's; None: of a shared page, which is opened under any name.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] | None = ()) -> None:
        self._app, self._has_names = app, names is not None
        self._given = {name.lower().rstrip(".") for name in names or () if name}
        self._names = {"localhost", *own_names(), *self._given}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = host_name(headers.get(b"host", ""))
        is_foreign = scope.get("method") not in SAFE_METHODS and self._is_foreign(headers)
        if not is_foreign and (not self._has_names or self._is_own(host)):
            await self._app(scope, receive, send)
            return
        key, name = ("host.other_page", headers.get(b"origin", "")) if is_foreign else ("host.refused", host)
        text = "\n".join(translate(lang, key, name=name[:80]) for lang in LANGUAGES)
        await PlainTextResponse(text, 403)(scope, receive, send)

    def _is_foreign(self, headers: dict[bytes, str]) -> bool:
        """Whether another page sent a call. Of a shared page, proxies may change Host: there Origin tells nothing."""
        if headers.get(b"sec-fetch-site", "").lower() in ("cross-site", "same-site"):
            return True
        origin = headers.get(b"origin")
        if origin is None or not self._has_names:
            return False
        asked = origin.lower().partition("://")[2]
        return asked != headers.get(b"host", "").lower() and host_name(asked) not in self._given

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
