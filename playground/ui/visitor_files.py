"""Which files each visitor of a shared page may fetch: those that the page has sent to that visitor, and the scripts.

Gradio serves whatever lies in its temporary folder to everyone who knows its path. A visitor's paths are learned from
the responses: the answer to an upload, and `"path": …` in a call's result. Text that a handler echoes has its quotes
escaped, so nobody can make a path their own by sending it.
"""

import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from starlette.types import Message, Receive, Send

from playground.errors import problem
from playground.ui.request_headers import TOO_LARGE, Refused

MAX_VISITORS = 1_000  # whose files are remembered; the one without a visit for longest is forgotten first
MAX_FILES = 2_000  # of one visitor; the oldest is forgotten first
UPLOAD_WINDOW = 3600.0  # seconds over which uploaded bytes are counted
ALL = 10  # times as much as one visitor, all of them may upload: who throws the cookie away is a new visitor
SENT_PATH = re.compile(rb'"path"\s*:\s*("(?:[^"\\]|\\.)*")')
WATCHED = ("/queue/data", "/call/", "/run/", "/api/", "/component_server")


@dataclass
class _Upload:
    """An upload: the monotonic clock's time when it began, and the bytes that have come."""

    began: float
    size: int = 0


class VisitorFiles:
    """The paths that each visitor was sent. Safe to use from several threads.

    everyone: files that all may fetch. most_bytes: that a visitor may upload within UPLOAD_WINDOW.
    """

    def __init__(self, everyone: Iterable[Path], most_bytes: int) -> None:
        self._everyone = {_normal(str(path)) for path in everyone}
        self._most_bytes = most_bytes
        self._sent: OrderedDict[str, OrderedDict[str, None]] = OrderedDict()
        self._uploaded: dict[str, list[_Upload]] = {}
        self._lock = threading.Lock()

    def may_fetch(self, visitor: str, route: str) -> bool:
        """Whether a route, "/file=…" or "/file/…", names a file that this visitor was sent, or one for everyone.

        The route is decoded already, once, as Gradio gets it.
        """
        path = _normal(route[len("/file=") :])
        with self._lock:
            return path in self._everyone or path in self._sent.get(visitor, ())

    def has_room(self, visitor: str, length: str) -> bool:
        """Whether a visitor may upload a body of that length, the text of its header.

        Nothing is counted for what is only claimed: `counting` counts what comes.
        """
        if not (length.isascii() and length.isdigit()) or len(length) > 15:
            return False
        now = time.monotonic()
        with self._lock:
            self._uploaded = {
                who: kept
                for who, entries in self._uploaded.items()
                if (kept := [entry for entry in entries if now - entry.began < UPLOAD_WINDOW])
            }
            return self._fits(visitor, int(length))

    def counting(self, visitor: str, receive: Receive) -> Receive:
        """`receive` that counts the bytes of an upload as they come; beyond the limit it raises Refused.

        What came before an upload broke off stays counted: Gradio (6.31) keeps it in a file.
        """
        entry = _Upload(time.monotonic())
        with self._lock:
            self._uploaded.setdefault(visitor, []).append(entry)

        async def next_part() -> Message:
            message = await receive()
            size = len(message.get("body", b""))
            with self._lock:
                if not self._fits(visitor, size):
                    raise Refused(TOO_LARGE, problem("shared.uploads"))
                entry.size += size
            return message

        return next_part

    def _fits(self, visitor: str, size: int) -> bool:
        own = sum(entry.size for entry in self._uploaded.get(visitor, []))
        everyones = sum(entry.size for entries in self._uploaded.values() for entry in entries)
        return own + size <= self._most_bytes and everyones + size <= ALL * self._most_bytes

    def forget(self, visitor: str) -> None:
        """Forget a visitor whose files are gone."""
        with self._lock:
            self._sent.pop(visitor, None)
            self._uploaded.pop(visitor, None)

    def watching(self, route: str, visitor: str, send: Send) -> Send:
        """`send` that learns the visitor's files from the response of a route."""
        is_upload = route.rstrip("/") == "/upload"
        if not is_upload and not route.startswith(WATCHED):
            return send
        rest = b""  # of a message that may be in the middle of a path

        async def sending(message: Message) -> None:
            nonlocal rest
            if message["type"] == "http.response.body":
                rest += message.get("body", b"")
                self._learn(visitor, _uploaded_paths(rest) if is_upload else _sent_paths(rest))
                rest = rest[-8192:]
            await send(message)

        return sending

    def _learn(self, visitor: str, paths: list[str]) -> None:
        if not paths:
            return
        with self._lock:
            known = self._sent.setdefault(visitor, OrderedDict())
            self._sent.move_to_end(visitor)
            for path in paths:
                known[_normal(path)] = None
            while len(known) > MAX_FILES:
                known.popitem(last=False)
            while len(self._sent) > MAX_VISITORS:
                self._sent.popitem(last=False)


def _normal(path: str) -> str:
    """A path without links and dots, so that one file has one name."""
    try:
        return str(Path(path).resolve())
    except (OSError, ValueError, RuntimeError):
        return ""


def _uploaded_paths(body: bytes) -> list[str]:
    try:
        paths = json.loads(body)
    except ValueError:  # not whole yet, or a refusal
        return []
    return [path for path in paths if isinstance(path, str)] if isinstance(paths, list) else []


def _sent_paths(body: bytes) -> list[str]:
    found = (json.loads(text) for text in SENT_PATH.findall(body))
    return [path for path in found if isinstance(path, str) and path]
