"""Which columns, and which keys of messages, no row is made from: said in one line after reading."""

from playground.data.columns import ColumnMapping
from playground.data.held_out_split import split_of
from playground.data.messages import unused_keys
from playground.data.names import is_named
from playground.errors import Problem

MAX_COLUMNS = 200  # that are kept track of
MAX_SHOWN = 12  # in the line


class UnusedColumns:
    """Collects the unused columns of records that have any value."""

    def __init__(self, columns: ColumnMapping):
        self.used, self.is_pair = columns.used, columns.layout == "pair"
        self.messages = columns.names.get("messages", "")
        self.found: dict[str, int] = {}

    def add(self, record: dict) -> None:
        """Count the columns of a record that have a value and aren't used."""
        for column, value in record.items():
            if column in self.used or value is None or value == "" or value == []:
                continue
            if not self._is_read(column, record):
                self._count(str(column))
        for key in unused_keys(record.get(self.messages)) if self.messages else ():
            self._count(f"{self.messages}.{key}")

    def notes(self) -> list[Problem]:
        """The line, or nothing where all columns are used."""
        if not self.found:
            return []
        shown = [f"{column} ({count})" for column, count in list(self.found.items())[:MAX_SHOWN]]
        shown += ["…"] if len(self.found) > MAX_SHOWN else []
        return [Problem("note.columns_unused", {"columns": shown, "count": len(self.found)})]

    def _is_read(self, column: str, record: dict) -> bool:
        """Whether a column that no setting maps is read all the same: a known split, or a list of keywords (`key`)."""
        if column == "key":
            return self.is_pair and isinstance(record[column], list)
        return is_named(column, "split") and column == split_of(record)[0]

    def _count(self, name: str) -> None:
        if name in self.found or len(self.found) < MAX_COLUMNS:
            self.found[name] = self.found.get(name, 0) + 1
