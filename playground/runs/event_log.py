"""The file of a run's events, written line by line; lines that can't be written wait in memory until they can."""

import contextlib
import os
from pathlib import Path

MAX_WAITING = 100_000  # lines


class EventLog:
    """Appends whole lines to a file. Not safe from several threads by itself.

    error: why it can't be written now, with the file's name (full, read-only or gone), or None. waiting: the lines
    since.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.error: OSError | None = None
        self.waiting: list[bytes] = []

    def append(self, line: bytes, passing: bool = False) -> None:
        """Write a line, after those that wait. passing: whether it isn't worth keeping where it can't be written."""
        if not (self.error and passing) and len(self.waiting) < MAX_WAITING:
            self.waiting.append(line)
        self.write_waiting()

    def write_waiting(self) -> None:
        """Write the lines that wait, all or none. A line that a dead writer left torn is ended first."""
        if not self.waiting:
            return
        size = None
        try:
            with open(self._path, "ab+") as file:
                size = file.tell()
                if size:
                    file.seek(-1, os.SEEK_END)
                    file.write(b"\n" if file.read(1) != b"\n" else b"")
                file.writelines(self.waiting)
        except OSError as error:
            if size is not None:
                with contextlib.suppress(OSError):
                    os.truncate(self._path, size)
            self.error = OSError(error.errno, error.strerror or str(error), str(self._path))
            return
        self.waiting.clear()
        self.error = None
