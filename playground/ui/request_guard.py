"""The guard before Gradio: every request is bounded in size and checked before a handler, or Gradio itself, sees it.

A body has a limit, is JSON of bounded depth, and holds text that UTF-8 can hold; a call names a listener or a server
function that exists, with as many values as it takes, each of a possible type. What doesn't is answered with status 4xx
and a sentence. An error's sentence that Gradio (6.31) sends with status 500 gets 422. Headers: request_headers.py.
"""

import json
import logging
import math
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playground.errors import PlaygroundError, as_playground_error, problem
from playground.json_values import MAX_DEPTH, is_too_deep, with_valid_text
from playground.ui.request_headers import (
    CLIENT_ERROR,
    INVALID,
    NOT_FOUND,
    TOO_LARGE,
    Refused,
    check_headers,
    check_kind,
    check_length,
    kind_of,
)
from playground.ui.request_values import check_session, checked_data, shown, without_files

PREFIX = "/gradio_api/"
SIGN_IN, BAD_GATEWAY = ("/login/huggingface", "/login/callback"), 502  # Gradio's routes, which ask the hub
MAX_BODY_BYTES = 16 * 2**20  # of a call; the longest prompt that is taken, a million characters, fits twice
MAX_FORM_OVERHEAD = 2**20  # of an upload, besides its files

logger = logging.getLogger(__name__)


class RequestGuard:
    """Middleware. lang: of the sentences, since a program has no page and a page sends nothing wrong.

    most_upload: bytes of the files of one upload together.
    """

    def __init__(self, app: ASGIApp, lang: str, most_upload: int) -> None:
        self._app, self._lang, self._most_upload = app, lang, most_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, scope)
        try:
            check_headers(scope)
            receive = await self._checked(scope, receive)
            await self._app(scope, receive, answer)
        except Refused as refused:
            await self._say(answer, scope, receive, refused.status, refused.error)
        except RuntimeError as error:
            if "response already started" not in str(error):
                raise
            await send({"type": "http.response.body", "body": b""})  # an HTTPException within a stream, which just ends
        except Exception as error:
            if answer.started:
                raise
            logger.exception("%s %.200s", scope["method"], scope["path"])
            if scope["path"].startswith(SIGN_IN):  # the hub, or what came back from it
                error = problem("request.sign_in", detail=type(error).__name__)
                await self._say(answer, scope, receive, BAD_GATEWAY, error)
                return
            await self._say(answer, scope, receive, 500, as_playground_error(error))

    async def _say(
        self, answer: "_Answer", scope: Scope, receive: Receive, status: int, error: PlaygroundError
    ) -> None:
        if not answer.started:
            text = error.text(self._lang)  # "error" is what Gradio's clients show, "detail" FastAPI's name for it
            await JSONResponse({"error": text, "detail": text}, status)(scope, receive, answer)

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """What the application receives instead: a checked body. Raises Refused."""
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return receive
        headers, route = dict(scope["headers"]), route_of(scope)
        kind, is_call = kind_of(headers), route.partition("/")[0] in CHECKS or route in CHECKS
        check_kind(kind, is_call, takes_form=route == "upload" or scope["path"].rstrip("/").endswith("/login"))
        if kind.startswith("multipart/"):
            return _limited(receive, headers, self._most_upload + MAX_FORM_OVERHEAD)
        body = await _read(receive, headers)
        if is_call or (body and "json" in kind):
            body = self._checked_body(scope, route, body)
            _set_header(scope, b"content-type", b"application/json")
        _set_header(scope, b"content-length", str(len(body)).encode())
        return replayed(body, receive)

    def _checked_body(self, scope: Scope, route: str, body: bytes) -> bytes:
        values = parse_body(body)
        first, _, name = route.partition("/")
        check = CHECKS.get(route) or CHECKS.get(first) or _check_nothing
        try:
            check(scope["app"].get_blocks(), name, values)
        except PlaygroundError as error:
            raise Refused(INVALID, error) from None
        return json.dumps(values).encode("ascii")


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a body, its text valid; NaN and infinities, which JSON doesn't have, become null.

    Raises Refused.
    """
    try:
        values = json.loads(body, parse_constant=lambda name: None, parse_float=_finite)
        if not isinstance(values, dict):
            raise Refused(INVALID, problem("request.no_object", value=shown(values)))
        if is_too_deep(values):
            raise Refused(INVALID, problem("request.too_deep", most=MAX_DEPTH))
        return with_valid_text(values)
    except (ValueError, RecursionError) as error:
        raise Refused(CLIENT_ERROR, problem("request.no_json", detail=" ".join(str(error).split())[:100])) from None


def _finite(digits: str) -> float | None:
    """A number; None for one that is too large, such as 1e999."""
    value = float(digits)
    return value if math.isfinite(value) else None


def route_of(scope: Scope) -> str:
    """The path of a request below Gradio's prefix, as "run/predict"; "" for any other path."""
    path = scope.get("path", "")
    return path.partition(PREFIX)[2].strip("/") if PREFIX in path else ""


async def _read(receive: Receive, headers: dict[bytes, bytes]) -> bytes:
    """A whole body. Raises Refused where it is larger than a call may be."""
    check_length(headers, MAX_BODY_BYTES)
    parts, size = [], 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise Refused(TOO_LARGE, problem("request.too_large", most_bytes=MAX_BODY_BYTES))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return b"".join(parts)


def _limited(receive: Receive, headers: dict[bytes, bytes], most: int) -> Receive:
    """What receives an upload, and refuses to go on beyond the limit."""
    check_length(headers, most)
    size = 0

    async def next_part() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise Refused(TOO_LARGE, problem("request.too_large", most_bytes=most))
        return message

    return next_part


def replayed(body: bytes, receive: Receive) -> Receive:
    """What receives a body that was read already, and then waits for the end of the connection."""
    sent = False

    async def next_part() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_part


def _set_header(scope: Scope, name: bytes, value: bytes) -> None:
    others = [pair for pair in scope["headers"] if pair[0] != name]
    scope["headers"] = [*others, (name, value)]


class _Answer:
    """Passes an answer on; the sentence of an error that comes with status 500 gets status 422."""

    def __init__(self, send: Send, scope: Scope) -> None:
        self._send, self.started = send, False
        self._is_call = route_of(scope).partition("/")[0] in ("run", "api")
        self._held: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            if self._is_call and message["status"] == 500:
                self._held = message
                return
        elif self._held and message["type"] == "http.response.body":
            status = INVALID if _has_sentence(message.get("body", b"")) else 500
            await self._send({**self._held, "status": status})
            self._held = None
        await self._send(message)


def _has_sentence(body: bytes) -> bool:
    try:
        return bool(json.loads(body).get("error"))
    except (ValueError, AttributeError):
        return False


def _find_listener(blocks: Any, name: str, body: dict[str, Any]) -> Any:
    """The listener that a call is for. Raises Refused where there is none."""
    check_session(body)
    index = body.get("fn_index")
    listeners = blocks.fns.values()
    found = blocks.fns.get(index) if index is not None else next((fn for fn in listeners if fn.api_name == name), None)
    if found is None:
        raise Refused(NOT_FOUND, problem("request.no_endpoint", name=shown(index if index is not None else name)))
    details = body.get("event_data")  # what handlers read of it, each with a default; of others, nothing
    details = without_files(details) if isinstance(details, dict) else {}
    body["event_data"] = {"index": None, "value": None, **(details or {})}
    return found


def _check_call(blocks: Any, name: str, body: dict[str, Any]) -> None:
    """A call by a program: by name, without the states."""
    body.pop("fn_index", None)
    listener = _find_listener(blocks, name, body)
    body["data"] = checked_data(listener.inputs, body.get("data"), may_lack_hidden=True)


def _check_direct(blocks: Any, name: str, body: dict[str, Any]) -> None:
    """A call by a page, by a listener's number; or by a program, by its name."""
    listener = _find_listener(blocks, name, body)
    body["data"] = checked_data(listener.inputs, body.get("data"))


def _check_join(blocks: Any, name: str, body: dict[str, Any]) -> None:
    if not isinstance(body.get("session_hash"), str) or body.get("fn_index") is None:
        raise problem("request.value", field="session_hash, fn_index", value=shown(body.get("fn_index")))
    _check_direct(blocks, name, body)


def _check_named(blocks: Any, name: str, body: dict[str, Any]) -> None:
    """A call with named values (call/v2)."""
    name = name.removeprefix("v2/")
    listener = next((fn for fn in blocks.fns.values() if fn.api_name == name), None)
    if listener is None or listener.api_visibility == "private":
        raise Refused(NOT_FOUND, problem("request.no_endpoint", name=shown(name)))
    known = {
        parameter["parameter_name"] for parameter in blocks.get_api_info()["named_endpoints"][f"/{name}"]["parameters"]
    }
    unknown = next((given for given in body if given not in known), None)
    if unknown is not None:
        raise problem("request.value", field=shown(unknown), value=shown(body[unknown]))


def _check_server_function(blocks: Any, name: str, body: dict[str, Any]) -> None:
    check_session(body)
    component, function = body.get("component_id"), body.get("fn_name")
    if not isinstance(body.get("session_hash"), str) or "data" not in body:
        raise problem("request.value", field="session_hash, data", value=shown(body.get("session_hash")))
    if type(component) is not int or component not in blocks.blocks or not isinstance(function, str):
        raise Refused(NOT_FOUND, problem("request.no_endpoint", name=shown([component, function])))
    if not getattr(getattr(blocks.blocks[component], function, None), "_is_server_fn", False):
        raise Refused(NOT_FOUND, problem("request.no_endpoint", name=shown(function)))


def _check_event(blocks: Any, name: str, body: dict[str, Any]) -> None:
    """A call about an event (cancel, reset, stream): pydantic, in Gradio, checks the rest."""
    check_session({name: value for name, value in body.items() if name != "fn_index"})


def _check_nothing(blocks: Any, name: str, body: dict[str, Any]) -> None:
    """A call that Gradio checks alone: what it has besides the listeners and functions of this page."""


CHECKS: dict[str, Callable[[Any, str, dict[str, Any]], None]] = {
    "call": lambda blocks, name, body: (_check_named if name.startswith("v2/") else _check_call)(blocks, name, body),
    "run": _check_direct,
    "api": _check_direct,
    "queue/join": _check_join,
    "component_server": _check_server_function,
    "cancel": _check_event,
    "reset": _check_event,
    "stream": _check_event,
}
