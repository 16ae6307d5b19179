"""Uploads that end too early, or are refused, leave no file behind, as they would with Gradio (6.31) alone."""

import contextlib
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from gradio import route_utils
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_begun: ContextVar[list[Path] | None] = ContextVar("begun", default=None)  # files of the request under way
_open_file = route_utils.NamedTemporaryFile


def _open_noted(*arguments: Any, **named: Any) -> Any:
    file = _open_file(*arguments, **named)
    begun = _begun.get()
    if begun is not None:
        begun.append(Path(file.name))
    return file


class UnfinishedUploads:
    """Middleware that removes what an upload has written unless it is answered with status 200.

    A browser that breaks off sends nothing more: what it had sent would stay for ever.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        route_utils.NamedTemporaryFile = _open_noted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].rstrip("/").endswith("/upload"):
            await self._app(scope, receive, send)
            return
        begun: list[Path] = []
        taken = False

        async def noted(message: Message) -> None:
            nonlocal taken
            taken = taken or message.get("status") == 200
            await send(message)

        token = _begun.set(begun)
        try:
            await self._app(scope, receive, noted)
        finally:
            _begun.reset(token)
            for path in begun if not taken else ():
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
