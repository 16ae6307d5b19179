"""A preview in JSON types and back, for its way from the process that reads to the page."""

from dataclasses import asdict, fields
from typing import Any

from playground.data.columns import ColumnMapping
from playground.data.row import Row
from playground.data.source import Preview
from playground.errors import Problem


def to_dict(found: Preview) -> dict[str, Any]:
    """A preview in JSON types."""
    values = asdict(found)
    if values["columns"]:
        values["columns"]["guessed"] = sorted(values["columns"]["guessed"])
    return values


def from_dict(values: dict[str, Any]) -> Preview:
    """The preview that `to_dict` wrote."""
    columns = values["columns"] and ColumnMapping(
        **{name: _as_before(ColumnMapping, name, value) for name, value in values["columns"].items()}
    )
    problems = {name: [Problem(**item) for item in values[name]] for name in ("notes", "problems")}
    rows = [Row(**{name: _as_before(Row, name, value) for name, value in row.items()}) for row in values["rows"]]
    return Preview(**{**values, **problems, "columns": columns, "rows": rows})


def _as_before(kind: type, name: str, value: Any) -> Any:
    """A field's value with the tuples and sets that JSON has no form for."""
    written = str(next(field.type for field in fields(kind) if field.name == name))
    if "frozenset" in written:
        return frozenset(value)
    if "tuple" in written:
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    return value
