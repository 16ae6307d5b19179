"""Append what a child process prints to a log file that doesn't grow without limit."""

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

MAX_BYTES = 10 * 2**20  # of a log; beyond them only its end is kept
KEPT_BYTES = 2**20
MAX_LINE = 100_000  # characters; a longer line is taken in pieces


def keep_log(printed: TextIO, path: Path, tail: deque[str]) -> None:
    """Append what is printed to the file, and the last lines to `tail`, until the child ends.

    The child is never held up: where the file can't be written, what is printed is read all the same.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            for line in _lines(printed, tail):
                file.write(line)
                file.flush()
                if file.tell() > MAX_BYTES:
                    _shorten(file)
    except OSError:
        for _ in _lines(printed, tail):
            pass


def _lines(printed: TextIO, tail: deque[str]) -> Iterator[str]:
    while line := printed.readline(MAX_LINE):
        tail.append(line.strip())
        yield line


def _shorten(file: TextIO) -> None:
    """Drop all but the end. Other processes' lines are appended to it as well, so it stays the same file."""
    with open(file.name, "rb") as log:
        log.seek(-min(KEPT_BYTES, log.seek(0, os.SEEK_END)), os.SEEK_END)
        kept = log.read().partition(b"\n")[2]
    file.truncate(0)
    file.write(kept.decode("utf-8", "replace"))
    file.flush()
