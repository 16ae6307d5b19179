"""Find the records in a JSON value, whatever its structure: a table by columns, pandas' orients, lists, strings."""

from typing import Any

from playground.data.messages import is_conversation, is_message_list
from playground.data.names import columns_named, is_known, is_named

MAX_HEADER = 40  # characters of a column's name in a table's first row
SPLITS = ("train", "training", "data", "rows", "records", "examples")  # lists that are read before others


class RecordShaper:
    """Makes records of a list's elements; a first row of known names is the header of the rows after it."""

    def __init__(self) -> None:
        self.header: list[str] | None = None
        self.is_first = True

    def record(self, value: Any) -> dict | None:
        """The record that an element is; {} for a header, None if it can't be one."""
        is_first, self.is_first = self.is_first, False
        if isinstance(value, dict):
            row = value.get("row")
            return row if isinstance(row, dict) and "row_idx" in value else value
        if isinstance(value, str):
            return {"text": value}
        if not isinstance(value, list) or not value:
            return None
        if is_conversation(value) or all(_is_text_pair(item) for item in value):
            return {"messages": value}
        if is_first and _is_header(value):
            self.header = value
            return {}
        if all(isinstance(item, (int, float, type(None))) for item in value):
            return None
        names = self.header if self.header and len(self.header) >= len(value) else _numbered(len(value))
        return dict(zip(names, value))


def records_in(value: dict, is_line: bool = False) -> tuple[list, list[str]]:
    """The records in one object, as a list of elements, and the names of lists of objects that were ignored.

    is_line: whether the object is a line of JSON Lines, which is a row unless its list has a set's name, like "data".

    A table by columns ({column: [values]}, {column: {index: value}}), by rows ({index: {column: value}}), pandas' split
    and table, a list of objects under any name, or the object itself.
    """
    if _is_row(value):
        return [value], []
    split = _split_table(value)
    if split is not None:
        return split, []
    table = _table(value)
    if table is not None:
        return table, []
    lists = {name: item for name, item in value.items() if _is_record_list(item) and (not is_line or name in SPLITS)}
    if lists:
        first = next((name for name in SPLITS if name in lists), next(iter(lists)))
        return lists[first], [name for name in lists if name != first and name != "features"]
    nested = [item for item in value.values() if isinstance(item, dict) and (_table(item) or _split_table(item))]
    if nested and all(isinstance(item, dict) for item in value.values()):
        return records_in(nested[0])[0], [name for name, item in value.items() if item is not nested[0]]
    texts = {name: item for name, item in value.items() if name in SPLITS and _is_list_of(item, (str, list))}
    if texts and "messages" not in value:
        return next(iter(texts.values())), list(texts)[1:]
    return [value] if value and not any(item == [] for item in value.values()) else [], []


def _is_row(value: dict) -> bool:
    """Whether an object has a question and an answer in text, or a conversation, and so is a row itself."""
    if any(is_message_list(value[name]) for name in columns_named(value, "messages")):
        return True
    texts = [name for name, text in value.items() if isinstance(text, str)]
    return bool(columns_named(value, "output")) and bool(columns_named(texts, "instruction"))


def _split_table(value: dict) -> list[dict] | None:
    """The records of pandas' orients split and tight: {"columns": [...], "data": [[...], ...]}."""
    columns, rows = value.get("columns"), value.get("data")
    if not _is_list_of(columns, (str, int)) or not _is_list_of(rows, list):
        return None
    return [dict(zip(map(str, columns or []), row)) for row in rows or []]


def _table(value: dict) -> list[dict] | None:
    """The records of a table by columns or by index, or None if an object isn't one."""
    columns = list(value.values())
    if all(isinstance(column, list) for column in columns) and columns:
        sizes = {len(column) for column in columns}
        is_conversations = any(map(is_message_list, columns))
        if len(sizes) != 1 or sizes == {0} or is_conversations or all(_is_record_list(column) for column in columns):
            return None
        is_one_row = (
            sizes != {1} and any(map(_is_answer_list, value.items())) and not all(_is_plain(c) for c in columns)
        )
        return None if is_one_row else [dict(zip(value, row)) for row in zip(*columns)]
    if not all(isinstance(column, dict) and column for column in columns) or not columns:
        return None
    if any(_is_list_table(column) for column in columns):
        return None
    if len({tuple(column) for column in columns}) != 1 and not all(map(_is_index, columns)):
        return _by_index(value)
    if all(map(_is_index, columns)) and not _is_index(value):
        index = list(dict.fromkeys(key for column in columns for key in column))
        return [{name: column.get(key) for name, column in value.items()} for key in index]
    by_index = _is_index(value) or any(is_known(name) for name in columns[0])
    if by_index:
        return list(columns)
    if any(is_known(name) for name in value):
        return [{name: column.get(key) for name, column in value.items()} for key in columns[0]]
    return None


def _is_list_table(value: dict) -> bool:
    """Whether an object is itself a table by columns, as one split among several is."""
    return len(value) > 1 and all(isinstance(column, list) for column in value.values()) and _table(value) is not None


def _by_index(value: dict) -> list[dict] | None:
    """Records by index, which need not have the same columns."""
    return list(value.values()) if _is_index(value) else None


def _is_index(value: dict) -> bool:
    return all(str(key).isdecimal() for key in value)


def _is_plain(column: list) -> bool:
    return all(not isinstance(item, (list, dict)) for item in column)


def _is_answer_list(column: tuple[str, list]) -> bool:
    """Whether a list may be several answers of one row rather than a column."""
    name, values = column
    return is_named(name, "output") and _is_plain(values)


def _is_record_list(value: Any) -> bool:
    """Whether a value is a list of objects which aren't all messages of one conversation."""
    return _is_list_of(value, dict) and not is_message_list(value)


def _is_list_of(value: Any, kinds: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, kinds) for item in value)


def _is_text_pair(value: Any) -> bool:
    return _is_list_of(value, str) and len(value) == 2


def _is_header(row: list) -> bool:
    """Whether a table's first row is its header: short, distinct names, one of which is known."""
    if not all(isinstance(name, str) and 0 < len(name.strip()) <= MAX_HEADER for name in row):
        return False
    return len(set(row)) == len(row) and any(map(is_known, row))


def _numbered(count: int) -> list[str]:
    """Names for columns without one, as in a table with an empty header."""
    return [f"column {number}" for number in range(1, count + 1)]
