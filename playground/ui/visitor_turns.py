"""What one visitor of a shared page may have under way at the same time: calls, queued events, open streams.

Gradio's queue and threads are everyone's: without a limit, one visitor's calls would fill them. A call beyond the limit
waits for the same visitor's earlier ones, and is refused only after a while.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

TOGETHER = 24  # calls, and events in Gradio's queue, of one visitor; a page that opens sends 10 events
STREAMS = 32  # of answers and of pages' signs of life; a page has two
WAIT_SECONDS, POLL_SECONDS = 60.0, 0.05


class TooMany(Exception):
    """A visitor has too much under way."""


class VisitorTurns:
    """Counts what each visitor has under way. For one event loop."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()

    @asynccontextmanager
    async def call(self, visitor: str, queued: Callable[[], int] = lambda: 0) -> AsyncIterator[None]:
        """Hold a call's place, once there is one. queued: how many events the visitor has in the queue.

        Raises TooMany after WAIT_SECONDS without a place.
        """
        ends = asyncio.get_running_loop().time() + WAIT_SECONDS
        while self._calls[visitor] >= TOGETHER or queued() + self._calls[visitor] >= TOGETHER:
            if asyncio.get_running_loop().time() > ends:
                raise TooMany
            await asyncio.sleep(POLL_SECONDS)
        with _counted(self._calls, visitor):
            yield

    @asynccontextmanager
    async def stream(self, visitor: str) -> AsyncIterator[None]:
        """Hold a stream's place. Raises TooMany where there is none."""
        if self._streams[visitor] >= STREAMS:
            raise TooMany
        with _counted(self._streams, visitor):
            yield


@contextmanager
def _counted(counter: Counter[str], visitor: str) -> Iterator[None]:
    counter[visitor] += 1
    try:
        yield
    finally:
        counter[visitor] -= 1
        if not counter[visitor]:
            del counter[visitor]
