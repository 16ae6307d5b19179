"""Who is who on a page that strangers open: a signed cookie, or the name under which a person has logged in.

Gradio's session hash is chosen by the browser, so it is no identity; it is bound to the first visitor who sends it. A
middleware finds the visitor of each request and leaves it in the request's scope; `current_visitor` reads it wherever
Gradio calls a handler, an endpoint or a server function. Files: visitor_files.py.
"""

import hashlib
import hmac
import json
import math
import os
import re
import secrets
import time
from collections.abc import MutableMapping
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from gradio.context import LocalContext
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playground.errors import Problem
from playground.i18n import LANGUAGES
from playground.ui.host_check import SAFE_METHODS
from playground.ui.request_guard import replayed
from playground.ui.visitor_files import VisitorFiles
from playground.ui.visitor_logins import VisitorLogins
from playground.ui.visitor_pace import VisitorPace, address_of, cost_of
from playground.ui.visitor_sessions import KEY, UNCOLLECTED, VisitorSessions, queued_events, tidy_queue, visitor_of
from playground.ui.visitor_turns import TooMany, VisitorTurns

COOKIE = "playground_visitor"
KEY_BYTES = 32
SECONDS = 30 * 24 * 3600  # that a browser keeps the cookie
MAX_BODY = 8 * 2**20  # bytes of a call
PREFIX = "/gradio_api"
BUSY, LOGIN = 429, "/login"
QUEUED = ("/queue/join", "/call/")  # calls that wait in Gradio's queue
STREAMS = ("/queue/data", "/heartbeat/", "/call/")
# Routes whose body names a session; and those that the page doesn't use and that tell about others or the machine.
CALLS = ("/queue/join", "/component_server", "/run/", "/api/", "/call/", "/cancel", "/reset", "/stream/")
UNUSED = (
    *("/monitoring", "/deep_link", "/proxy=", "/vibe", "/undo-vibe", "/profiling", "/dev/", "/process_recording"),
    "/custom_component",  # of which each call writes a line into the log
)
SESSION_IN_PATH = re.compile(r"/(?:heartbeat|stream|call/(?:v2/)?[^/]+)/([^/]+)")


def current_visitor() -> str:
    """The visitor whose request is being answered, NOBODY where there is no request."""
    return visitor_of(LocalContext.request.get(None))


def read_secret(folder: Path) -> bytes:
    """The key that cookies are signed with, made at the first start: visitors keep their runs over a restart.

    A file that was torn is replaced: with an empty key, anybody could sign.
    """
    file = folder / "secret"
    folder.mkdir(parents=True, exist_ok=True)
    if not file.is_file() or file.stat().st_size < KEY_BYTES:
        unfinished = folder / f"secret.{secrets.token_hex(8)}.partial"
        unfinished.touch(0o600)
        unfinished.write_bytes(secrets.token_bytes(KEY_BYTES))
        os.replace(unfinished, file)
    return file.read_bytes()


class Visitors:
    """Middleware: finds or makes the visitor of each request, and keeps visitors out of each other's calls and files.

    secret: of `read_secret`. files: which files each one may fetch. pace: how much each may ask for. logins: whose the
    runs are that somebody made before they signed in.
    """

    def __init__(
        self, app: ASGIApp, secret: bytes, files: VisitorFiles, pace: VisitorPace, logins: VisitorLogins
    ) -> None:
        self._app, self._secret, self._files, self._pace, self._logins = app, secret, files, pace, logins
        self._sessions, self._turns = VisitorSessions(), VisitorTurns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        cookies = cookies_of(scope)
        given, user = self._verified(cookies.get(COOKIE, "")), logged_in_as(scope, cookies)
        made = given or secrets.token_hex(16)
        scope[KEY] = visitor = visitor_id("cookie", made)
        if user:
            scope[KEY] = visitor = self._logins.visitor(visitor_id("user", user), visitor if given else "")
        route = route_of_gradio(scope)
        send = _setting_cookie(send, None if given else self._cookie(made, _is_encrypted(scope, headers)))
        refusal = self._unwelcome(scope, route, headers, bool(given), bool(user))
        try:
            async with nullcontext() if refusal else self._place(scope, route, visitor):
                if not refusal:
                    receive, refusal = await self._checked(scope, receive, route, visitor, headers)
                await (refusal or self._app)(scope, receive, self._watching(scope, route, visitor, send))
        except TooMany:
            await _refuse(BUSY, "shared.together", headers)(scope, receive, send)

    def _unwelcome(
        self, scope: Scope, route: str, headers: dict[bytes, str], has_cookie: bool, has_login: bool
    ) -> Response | None:
        """A refusal of what nobody may ask for, or not so often, or not without a cookie."""
        if route.startswith(UNUSED):
            return _refuse(404, "shared.no_route", headers)
        method, is_login = scope.get("method", "GET"), route.rstrip("/") == LOGIN
        has_cookie, has_login = has_cookie and not is_login, has_login and not is_login  # each may be another's guess
        late = self._pace.refusal(scope[KEY], address_of(scope), cost_of(method, route), has_cookie, has_login)
        if late:
            return _refuse(BUSY, late.key, headers, late.seconds)
        if method not in SAFE_METHODS and not (has_cookie or has_login or is_login):
            return _refuse(403, "shared.no_cookie", headers)
        return None

    def _place(self, scope: Scope, route: str, visitor: str) -> AbstractAsyncContextManager[None]:
        """A place among the visitor's calls or streams, if the request needs one."""
        if scope.get("method") in SAFE_METHODS:
            return self._turns.stream(visitor) if route.startswith(STREAMS) else nullcontext()
        blocks = _blocks(scope) if route.startswith(QUEUED) else None
        return self._turns.call(visitor, (lambda: queued_events(visitor, blocks)) if blocks else lambda: 0)

    def _watching(self, scope: Scope, route: str, visitor: str, send: Send) -> Send:
        """`send` that learns from an answer which files are the visitor's, and which event: that is a session too."""
        send = self._files.watching(route, visitor, send)
        if scope.get("method") != "POST" or not route.startswith("/call/"):
            return send

        async def sending(message: Message) -> None:
            event = _named_in(message.get("body", b""), "event_id")
            self._sessions.are_own(event, visitor, _blocks(scope))
            await send(message)

        return sending

    async def _checked(
        self, scope: Scope, receive: Receive, route: str, visitor: str, headers: dict[bytes, str]
    ) -> tuple[Receive, Response | None]:
        """What to read the body with, and a refusal for what belongs to another visitor or is too large."""
        query, events = parse_qs(str(scope.get("query_string", b""), "latin-1")), list[str]()
        sessions = query.get("session_hash", [])
        if found := SESSION_IN_PATH.match(route):
            sessions = [*sessions, unquote(found[1])]
        if route.startswith(("/file=", "/file/")) and not self._files.may_fetch(visitor, route):
            return receive, _refuse(404, "shared.no_file", headers)
        if route.startswith("/upload") and scope.get("method") == "POST":
            if not self._files.has_room(visitor, headers.get(b"content-length", "")):
                return receive, _refuse(413, "shared.uploads", headers)
            receive = self._files.counting(visitor, receive)
        elif route.startswith(CALLS) and scope.get("method") == "POST":
            body = await _read_body(receive)
            if body is None:
                return receive, _refuse(413, "shared.body", headers)
            receive = replayed(body, receive)
            sessions, events = [*sessions, *_named_in(body, "session_hash")], _named_in(body, "event_id")
        blocks = _blocks(scope)
        is_own = all(self._sessions.owns_event(event, visitor, blocks) for event in events) if blocks else True
        if not is_own or not self._sessions.are_own(sessions, visitor, blocks):
            return receive, _refuse(403, "shared.session", headers)
        if blocks and route.startswith(QUEUED) and scope.get("method") == "POST":
            tidy_queue(blocks)
            if self._sessions.uncollected(visitor, blocks) > UNCOLLECTED:
                return receive, _refuse(BUSY, "shared.uncollected", headers)
        return receive, None

    def _cookie(self, made: str, encrypted: bool) -> str:
        """A Set-Cookie header's value. A Space shows the page in a frame of another site, which takes SameSite=None."""
        rights = "SameSite=None; Secure; Partitioned" if encrypted else "SameSite=Lax"
        return f"{COOKIE}={made}.{self._signature(made)}; Path=/; Max-Age={SECONDS}; HttpOnly; {rights}"

    def _verified(self, cookie: str) -> str:
        """The random part of a cookie that this program has signed, else ""."""
        made, _, signature = cookie.partition(".")
        is_signed = signature.isascii() and hmac.compare_digest(signature, self._signature(made))
        return made if made and is_signed else ""

    def _signature(self, made: str) -> str:
        return hmac.new(self._secret, made.encode("latin-1", "replace"), hashlib.sha256).hexdigest()


def visitor_id(kind: str, name: str) -> str:
    """A visitor's opaque name, from which neither the cookie nor the login can be found."""
    return hashlib.sha256(f"{kind}:{name}".encode("utf-8", "replace")).hexdigest()[:32]


def logged_in_as(scope: Scope, cookies: dict[str, str]) -> str:
    """The name under which a person has logged in, by `--auth` or by OAuth on a Space, else "" (Gradio 6.31)."""
    user = login_of(scope).get("userinfo", {})
    if name := str(user.get("sub") or user.get("preferred_username") or ""):
        return f"oauth:{name}"
    name = password_login(scope, cookies)
    return f"auth:{name}" if name else ""


def password_login(scope: Scope, cookies: dict[str, str]) -> str:
    """The name under which a person has logged in by `--auth`, else ""."""
    app = scope.get("app")
    tokens, cookie_id = getattr(app, "tokens", {}), getattr(app, "cookie_id", "")
    for start in ("access-token", "access-token-unsecure"):
        if found := tokens.get(cookies.get(f"{start}-{cookie_id}", "")):
            return str(found)
    return ""


def login_of(scope: MutableMapping[str, Any]) -> dict[str, Any]:
    """What Gradio's cookie says of a login by OAuth; {} without one, or for one that has expired."""
    login = (scope.get("session") or {}).get("oauth_info") or {}
    expires = login.get("expires_at")
    return {} if expires is not None and expires < time.time() else login


def cookies_of(scope: Scope) -> dict[str, str]:
    """The cookies of a request, split as Gradio's server does.

    Other apps of this host have theirs in the same header: at a value in JSON or a name such as "version", Python's
    SimpleCookie would drop all that follow.
    """
    headers = [value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"]
    return cookie_parser("; ".join(headers))


def _is_encrypted(scope: Scope, headers: dict[bytes, str]) -> bool:
    return scope.get("scheme") in ("https", "wss") or headers.get(b"x-forwarded-proto", "").startswith("https")


def _setting_cookie(send: Send, cookie: str | None) -> Send:
    """`send`, with the cookie in the headers of the response."""

    async def sending(message: Message) -> None:
        if cookie and message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"set-cookie", cookie.encode("latin-1"))]}
        await send(message)

    return sending if cookie else send


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body of a request; None for one that is larger than MAX_BODY."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if message["type"] != "http.request" or not message.get("more_body"):
            return bytes(body)


def _named_in(body: bytes, name: str) -> list[str]:
    """The text of that name in a JSON object, alone or not at all."""
    try:
        values = json.loads(body or b"{}")
    except (ValueError, RecursionError):  # Gradio refuses it as well
        return []
    named = values.get(name) if isinstance(values, dict) else None
    return [named] if isinstance(named, str) else []


def route_of_gradio(scope: Scope) -> str:
    """The path of a request below Gradio's prefix, or the whole path; without the root path of a proxy."""
    path, root = str(scope["path"]), scope.get("root_path", "")
    return (path[len(root) :] if root and path.startswith(f"{root}/") else path).removeprefix(PREFIX)


def _blocks(scope: Scope) -> Any:
    """Gradio's page; None before there is one."""
    return getattr(scope.get("app"), "blocks", None)


def _refuse(status: int, key: str, headers: dict[bytes, str], seconds: float = 0.0) -> Response:
    """A refusal in one sentence, in Japanese where the browser prefers it. seconds: until it may be asked again."""
    lang = next((code for code in LANGUAGES if headers.get(b"accept-language", "").startswith(code)), "en")
    whole = math.ceil(seconds)
    text, later = Problem(key, {"seconds": whole}).text(lang), {"retry-after": str(whole)} if seconds else None
    if headers.get(b"accept", "").startswith("text/html"):
        return PlainTextResponse(text, status, later)
    return JSONResponse({"error": text, "detail": text}, status, later)
