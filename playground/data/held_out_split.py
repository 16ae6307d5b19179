"""The rows that a data set holds out itself: those with "test", "validation" and the like in a column named `split`."""

from collections import Counter

from playground.data.names import columns_named, split_named
from playground.data.row import text_of
from playground.errors import Problem

MAX_VALUES = 20  # different values that are counted


def split_of(record: dict) -> tuple[str, str]:
    """The column that says which part of its set a record belongs to, and the part: "train" or "held_out"; else ""."""
    for column in columns_named(record, "split"):
        part = split_named(record[column])
        if part:
            return column, part
    return "", ""


class HeldOutSplit:
    """Tells which records are held out by their set itself, and counts them.

    columns, values: what they were found by, with counts. are_trained_on: whether they are the whole set.
    """

    def __init__(self) -> None:
        self.columns: Counter[str] = Counter()
        self.values: Counter[str] = Counter()
        self.are_trained_on = False

    def is_held_out(self, record: dict) -> bool:
        """Whether a record is held out."""
        column, part = split_of(record)
        if part != "held_out":
            return False
        self.columns[column] += 1
        value = text_of(record[column]).strip()
        if value in self.values or len(self.values) < MAX_VALUES:
            self.values[value] += 1
        return True

    def notes(self) -> list[Problem]:
        """What was done with them, or nothing where there are none."""
        if not self.columns:
            return []
        count, columns, values = self.columns.total(), list(self.columns), list(self.values)
        if self.are_trained_on:
            return [Problem("note.own_held_out_used", {"count": count, "column": columns, "values": values})]
        return [Problem("note.own_held_out", {"count": count, "column": columns, "values": values})]
