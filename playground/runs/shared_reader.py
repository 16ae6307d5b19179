"""Read a run's new events once for all who follow it: two hundred followers cost as many reads of the file as one.

Replies end where the file was last read, so that followers share their cursors, and a follower who was there for the
last read gets events that are in memory already. So does one who comes new, unless the run is long.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from playground.runs.store import Run

BLOCKS = 300  # of new events that are kept in memory: half a minute of a run that records memory ten times a second
MAX_RUNS = 4  # that are followed at once from memory; the one that was followed longest ago is dropped

MAX_BEGINNING = 4_000_000  # bytes of a run's beginning that is kept, shortened, in memory for those who come new

Convert = Callable[[list[dict]], list[dict]]


@dataclass(frozen=True)
class _Block:
    """Events between two byte positions of a run's file."""

    start: int
    end: int
    events: list[dict]


class _Tail:
    """The last events of one run. end: the byte up to which the file was read. beginning: its first events, if kept."""

    def __init__(self, end: int):
        self.end = end
        self.beginning: _Block | None = None
        self.blocks: deque[_Block] = deque(maxlen=BLOCKS)


class SharedReader:
    """Reads runs for any number of followers, from several threads. convert: applied once to what was read.

    shorten: applied to a run's beginning before, which may be all of a long run.
    """

    def __init__(self, convert: Convert, shorten: Convert = lambda events: events):
        self._convert, self._shorten = convert, shorten
        self._tails: dict[Path, _Tail] = {}  # by the run's folder
        self._lock = threading.Lock()

    def since(self, run: Run, cursor: int, max_bytes: int) -> tuple[list[dict], int]:
        """The whole events after byte `cursor`, at most `max_bytes` of them, and the cursor to go on from."""
        with self._lock:
            tail = self._tails.get(run.folder)
            if tail and run.size() < tail.end:  # another run under this name
                del self._tails[run.folder]
                tail = None
            if tail and tail.end <= cursor + max_bytes:
                self._read_on(run, tail, max_bytes)
                known = self._known(tail, cursor)
                if known is not None:
                    return known, tail.end
                max_bytes = max(tail.end - cursor, 0) or max_bytes
            if cursor == 0 and run.size() < MAX_BEGINNING:  # under the lock, so that only one of many reads it
                return self._read_beginning(run, max_bytes)
        events, end = run.since(cursor, max_bytes)
        if tail is None and end - cursor < max_bytes // 2:  # the file's end was reached
            with self._lock:
                self._keep(run.folder, end)
        return self._convert(events if cursor else self._shorten(events)), end

    def _read_beginning(self, run: Run, max_bytes: int) -> tuple[list[dict], int]:
        """The events from the file's beginning, kept for the next who comes new."""
        events, end = run.since(0, max_bytes)
        beginning = _Block(0, end, self._convert(self._shorten(events)))
        tail = self._keep(run.folder, end)
        if end <= tail.end:
            tail.beginning = beginning
        return list(beginning.events), end

    def _read_on(self, run: Run, tail: _Tail, max_bytes: int) -> None:
        """Take in what was written since the last read."""
        if run.size() == tail.end:
            return
        events, end = run.since(tail.end, max_bytes)
        if end > tail.end:
            tail.blocks.append(_Block(tail.end, end, self._convert(events)))
            tail.end = end

    def _known(self, tail: _Tail, cursor: int) -> list[dict] | None:
        """The events from a cursor to the tail's end, if they are in memory."""
        if cursor == tail.end:
            return []
        blocks = list(tail.blocks)
        if cursor == 0 and tail.beginning:
            blocks = [tail.beginning, *(block for block in blocks if block.start >= tail.beginning.end)]
            if blocks[-1].end != tail.end or any(one.end != next.start for one, next in pairwise(blocks)):
                return None  # those in between are no longer in memory
        starts = [block.start for block in blocks]
        if cursor not in starts:
            return None
        return [event for block in blocks[starts.index(cursor) :] for event in block.events]

    def _keep(self, folder: Path, end: int) -> _Tail:
        """The tail of a run, a new one from byte `end` on where there is none."""
        tail = self._tails.setdefault(folder, _Tail(end))
        while len(self._tails) > MAX_RUNS:
            self._tails.pop(next(iter(self._tails)))
        return tail
