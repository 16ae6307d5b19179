"""Which columns, and which keys of messages, no row is made from: said in one line after reading."""

from playground.data.columns import ColumnMapping
from playground.data.messages import unused_keys
from playground.errors import Problem

MAX_COLUMNS = 200  # that are kept track of
MAX_SHOWN = 12  # in the line
OWN_COLUMNS = ("key", "split")  # read without a field of their own


class UnusedColumns:
    """Collects the unused columns of records that have any value."""

    def __init__(self, columns: ColumnMapping):
        self.used = columns.used
        self.messages = columns.names.get("messages", "")
        self.found: dict[str, int] = {}

    def add(self, record: dict) -> None:
        """Count the columns of a record that have a value and aren't used."""
        for column, value in record.items():
            if column in self.used or column in OWN_COLUMNS or value is None or value == "" or value == []:
                continue
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

    def _count(self, name: str) -> None:
        if name in self.found or len(self.found) < MAX_COLUMNS:
            self.found[name] = self.found.get(name, 0) + 1
