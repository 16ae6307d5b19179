"""Rows of a table with fewer values than columns that give no question with an answer, as a stray line break makes."""

from playground.errors import Problem

MAX_LINES = 8  # in a note


class ShortRows:
    """Tells such rows from others without a question or an answer, and where they begin.

    Programs leave empty cells out at the end of a line, so that a short row with a question and an answer is a whole
    one. line: where the current record begins in its file, if it has fewer values than columns, else 0.
    """

    def __init__(self) -> None:
        self.line = self.count = 0
        self.lines: list[int] = []

    def reason(self, reason: str) -> str:
        """Why the current record is dropped: "short" instead of "empty" if it has too few values."""
        if not self.line or reason not in ("empty", "short"):
            return reason
        self.count += 1
        self.lines += [self.line] if len(self.lines) < MAX_LINES else []
        return "short"

    def notes(self) -> list[Problem]:
        """What such rows may mean: the row before them may have lost its end."""
        return [Problem("note.short_rows", {"count": self.count, "lines": self.lines})] if self.count else []
