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
from pathlib import Path
from urllib.parse import unquote

from starlette.types import Message, Send

MAX_VISITORS = 1_000  # whose files are remembered; the one without a visit for longest is forgotten first
MAX_FILES = 2_000  # of one visitor; the oldest is forgotten first
UPLOAD_WINDOW = 3600.0  # seconds over which uploaded bytes are counted
ALL = 10  # times as much as one visitor, all of them may upload: who throws the cookie away is a new visitor
SENT_PATH = re.compile(rb'"path"\s*:\s*("(?:[^"\\]|\\.)*")')
WATCHED = ("/queue/data", "/call/", "/run/", "/api/", "/component_server")


class VisitorFiles:
    """The paths that each visitor was sent. Safe to use from several threads.

    everyone: files that all may fetch. most_bytes: that a visitor may upload within UPLOAD_WINDOW.
    """

    def __init__(self, everyone: Iterable[Path], most_bytes: int) -> None:
        self._everyone = {_normal(str(path)) for path in everyone}
        self._most_bytes = most_bytes
        self._sent: OrderedDict[str, OrderedDict[str, None]] = OrderedDict()
        self._uploaded: dict[str, list[tuple[float, int]]] = {}
        self._lock = threading.Lock()

    def may_fetch(self, visitor: str, route: str) -> bool:
        """Whether a route, "/file=…" or "/file/…", names a file that this visitor was sent, or one for everyone."""
        path = _normal(unquote(route[len("/file=") :]))
        with self._lock:
            return path in self._everyone or path in self._sent.get(visitor, ())

    def has_room(self, visitor: str, length: str) -> bool:
        """Whether a visitor may upload a body of that length, the text of its header; counts it."""
        if not (length.isascii() and length.isdigit()):
            return False
        now = time.monotonic()
        with self._lock:
            recent = {
                who: kept
                for who, entries in self._uploaded.items()
                if (kept := [entry for entry in entries if now - entry[0] < UPLOAD_WINDOW])
            }
            own = sum(size for _, size in recent.get(visitor, []))
            everyones = sum(size for entries in recent.values() for _, size in entries)
            has_room = own + int(length) <= self._most_bytes and everyones + int(length) <= ALL * self._most_bytes
            if has_room:
                recent.setdefault(visitor, []).append((now, int(length)))
            self._uploaded = recent
            return has_room

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
