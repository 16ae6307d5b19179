"""The late end of a page's old stream of answers doesn't end what its new stream waits for: a fault of Gradio (6.31).

Gradio answers a page's queued events over a stream. Where one breaks off, it drops all events of that page and their
messages. A busy machine may notice only when the page has opened the next stream, which then waits for ever: a click
has no effect, and further ones on the same button are ignored.
"""

from collections import Counter
from typing import Any
from urllib.parse import parse_qs

from gradio.utils import LRUCache
from starlette.types import ASGIApp, Receive, Scope, Send


class OpenStreams:
    """Middleware that counts each page's open streams, and lets only the last one's end drop the page's events."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open: Counter[str] = Counter()  # by the page's session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope.get("path", "").endswith("/queue/data"):
            await self._app(scope, receive, send)
            return
        self._guard(scope["app"].get_blocks()._queue)
        session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
        self._open[session] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[session] -= 1
            if not self._open[session]:
                del self._open[session]

    def _guard(self, queue: Any) -> None:
        """Make Gradio's queue ask here before it drops a page's events or messages."""
        if isinstance(queue.pending_messages_per_session, _Messages):
            return
        clean = queue.clean_events

        async def clean_events(*, session_hash: str | None = None, event_id: str | None = None) -> None:
            if session_hash is None or not self.is_another_open(session_hash):
                await clean(session_hash=session_hash, event_id=event_id)

        queue.clean_events = clean_events
        queue.pending_messages_per_session = _Messages(self, queue.pending_messages_per_session)

    def is_another_open(self, session: str) -> bool:
        """Whether a page has a stream besides the one that ends now, which still counts."""
        return self._open[session] > 1


class _Messages(LRUCache):
    """Gradio's messages to each page, which stay while the page has a stream for them."""

    def __init__(self, streams: OpenStreams, messages: LRUCache) -> None:
        super().__init__(messages.max_size)
        self._streams = streams
        self.update(messages)

    def __delitem__(self, session: str) -> None:
        if not self._streams.is_another_open(session):
            super().__delitem__(session)
