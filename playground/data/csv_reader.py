"""Read CSV and TSV files record by record."""

import csv
import itertools
from collections.abc import Iterator
from typing import TextIO

from playground.data.records import Reading, Record
from playground.errors import PlaygroundError, Problem


def read_csv(stream: TextIO, reading: Reading, max_field_chars: int) -> Iterator[Record]:
    """Read the rows of a table whose first row is its header.

    A CSV file's delimiter is the one of , ; and tab that its first line has most of. Records with more values than the
    header are marked unusable. Raises PlaygroundError with the line.
    """
    csv.field_size_limit(max_field_chars)
    first_line = stream.readline()
    delimiter = "\t" if reading.kind == "tsv" else _detect_delimiter(first_line, reading)
    rows = csv.reader(itertools.chain([first_line], stream), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    number = 0
    while True:
        line = rows.line_num + 1
        try:
            fields = next(rows, None)
        except csv.Error as error:
            key = "error.csv_quote" if "end of data" in str(error) else "error.csv"
            broken = Problem(key, {"file": reading.name, "line": line, "detail": str(error)})
            raise PlaygroundError(*reading.problems, broken) from error
        if fields is None:
            return
        if not fields:
            continue
        if header is None:
            header = _column_names(fields)
            continue
        number += 1
        has_extra = any(field.strip() for field in fields[len(header) :])
        yield Record(number, dict(zip(header, fields)), "fields" if has_extra else "")


def _detect_delimiter(first_line: str, reading: Reading) -> str:
    delimiter = max(",;\t", key=first_line.count)
    if delimiter != ",":
        reading.notes.append(Problem("note.delimiter", {"delimiter": {";": ";", "\t": "tab"}[delimiter]}))
    return delimiter


def _column_names(fields: list[str]) -> list[str]:
    """Unique names for all columns: an empty name and a repeated one get the column's number."""
    names: dict[str, None] = {}
    for column, field in enumerate(fields, 1):
        name = unique = field.strip("\ufeff") if field.strip() else f"column {column}"
        while unique in names:
            unique, column = f"{name} ({column})", column + 1
        names[unique] = None
    return list(names)
