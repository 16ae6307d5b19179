"""Records as they stand in their source, and the state of a source that is being read."""

import io
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple

from playground.data.encodings import Encoding
from playground.errors import PlaygroundError, Problem, problem

MAX_PROBLEMS = 5  # broken lines in one message
MAX_COLUMNS = 2_000  # of a source: guessing which is which takes a second for so many
MAX_NAME = 1_000  # characters of a column's name


class Record(NamedTuple):
    """One record of a source.

    number: counts from 1. unusable: why it can't become a row, or "". before: earlier turns as (question, answer)
    pairs, where they aren't in the record itself. short_line: where it begins in its file, if it has fewer values than
    the file has columns, else 0.
    """

    number: int
    values: dict
    unusable: str = ""
    before: tuple[tuple[str, str], ...] = ()
    short_line: int = 0


@dataclass
class Reading:
    """A source that is being read, and its records, which are read while they are iterated over.

    size: bytes, 0 if unknown. total: number of records, where it is known before the end. problems: broken lines so
    far, raised at the end. notes: what was guessed. file: the open file, where there is one. bundled: whether it comes
    with this program, so that its unused columns are no news. parts: the sheets or splits to choose from. closers:
    called at the end. is_preview: whether only the beginning is shown, so that no record may wait for many others.
    """

    name: str
    kind: str
    size: int = 0
    encoding: Encoding | None = None
    total: int | None = None
    records: Iterator[Record] = field(default_factory=lambda: iter(()))
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    file: io.BufferedReader | None = None
    bundled: bool = False
    parts: list[str] = field(default_factory=list)
    closers: list[Callable[[], object]] = field(default_factory=list)
    is_preview: bool = False

    def __enter__(self) -> "Reading":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and remove what was unpacked from it."""
        if self.file:
            self.file.close()
        while self.closers:
            self.closers.pop()()

    @property
    def is_streamed(self) -> bool:
        """Whether only the records that are needed are read at all."""
        return self.kind in ("hub", "folder")

    @property
    def bytes_read(self) -> int:
        """Bytes read so far."""
        return self.file.tell() if self.file and not self.file.closed else self.size  # closed at its end

    def add_problem(self, problem: Problem) -> None:
        """Record a broken line and read on, so that one error names several. Raises PlaygroundError at the fifth."""
        self.problems.append(problem)
        if len(self.problems) >= MAX_PROBLEMS:
            raise PlaygroundError(*self.problems)

    def add_note(self, note: Problem) -> None:
        """Say once what was guessed or read over."""
        if note not in self.notes:
            self.notes.append(note)

    def check_columns(self, names: Collection[object]) -> None:
        """Raise PlaygroundError for more columns, or longer names of them, than are read."""
        if len(names) > MAX_COLUMNS:
            raise problem("error.csv_columns", file=self.name, columns=len(names), most=MAX_COLUMNS)
        longest = max((len(str(name)) for name in names), default=0)
        if longest > MAX_NAME:
            raise problem("error.column_name", file=self.name, characters=longest, most=MAX_NAME)

    def raise_problems(self) -> None:
        """Raise PlaygroundError if any line was broken."""
        if self.problems:
            raise PlaygroundError(*self.problems)
