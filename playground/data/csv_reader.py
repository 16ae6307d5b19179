"""Read CSV and TSV files record by record."""

import csv
import itertools
import re
from collections.abc import Iterator
from typing import Any, TextIO

from playground.data.names import is_known
from playground.data.records import Reading, Record
from playground.errors import PlaygroundError, Problem

DELIMITERS = {",": ",", ";": ";", "\t": "tab", "|": "|"}  # and how they are written in a note
SAMPLE_LINES = 20  # that tell whether a blank follows each delimiter
SEPARATOR_LINE = re.compile(r"sep=(.)\s*$")  # Excel's first line in a file whose delimiter isn't its own
COMMENT = re.compile(r"\ufeff?#[^,;|\t]*$")  # a line without any delimiter
RULE = re.compile(r"[\s|:-]+$")  # the line below the header of a Markdown table


def read_csv(stream: TextIO, reading: Reading, max_field_chars: int) -> Iterator[Record]:
    """Read the rows of a table whose first row is its header.

    A CSV file's delimiter is the one of , ; | and tab that makes most known columns of its first line, else the most
    columns. A blank behind each delimiter isn't part of the values. Records with more values than the header are marked
    unusable, and so are those in which quotes have swallowed whole rows; others with fewer values carry their line.
    Raises PlaygroundError with the line.
    """
    csv.field_size_limit(max_field_chars)
    lines, first_line, skipped = _without_preamble(stream)
    delimiter = "\t" if reading.kind == "tsv" else detect_delimiter(first_line)
    if delimiter != "," and reading.kind != "tsv":
        reading.add_note(Problem("note.delimiter", {"delimiter": DELIMITERS[delimiter]}))
    if is_markdown(first_line):
        lines, delimiter = map(_without_frame, lines), "|"
        rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, quoting=csv.QUOTE_NONE)
    else:
        sample = list(itertools.islice(lines, SAMPLE_LINES))
        blank = _has_blanks(sample, delimiter)
        rows = csv.reader(itertools.chain(sample, lines), delimiter=delimiter, strict=True, skipinitialspace=blank)
    yield from _records(rows, reading, delimiter, skipped)


def _records(rows: Any, reading: Reading, delimiter: str, skipped: int) -> Iterator[Record]:
    """The records below the header. skipped: lines of the file in front of those that `rows` has read."""
    header: list[str] | None = None
    number = 0
    while True:
        line = skipped + rows.line_num + 1
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
            reading.check_columns(fields)
            header = column_names(fields)
            continue
        number += 1
        has_extra = any(field.strip() for field in fields[len(header) :])
        is_short = len(fields) < len(header) and any(field.strip() for field in fields)
        unusable = "fields" if has_extra else "short" if is_short and _has_rows(fields, header, delimiter) else ""
        yield Record(number, dict(zip(header, fields)), unusable, short_line=line if is_short else 0)


def _has_rows(fields: list[str], header: list[str], delimiter: str) -> bool:
    """Whether a short record is several rows that stray quotes have joined: each of its lines has all columns.

    A blank follows the commas of prose, and hardly any delimiter.
    """
    lines = delimiter.join(fields).splitlines()
    parting = re.compile(re.escape(delimiter) + r"(?! )")
    return len(lines) > 1 and all(len(parting.split(line)) == len(header) for line in lines)


def detect_delimiter(first_line: str) -> str:
    """The delimiter of a table, from its header."""

    def columns(delimiter: str) -> tuple[int, int]:
        names = first_line.split(delimiter)
        return sum(is_known(name.strip(' "\ufeff\r\n')) for name in names) if len(names) > 1 else 0, len(names)

    return max(DELIMITERS, key=columns)


def is_markdown(line: str) -> bool:
    """Whether a line is the header of a Markdown table, between bars."""
    line = line.strip()
    return len(line) > 2 and line.startswith("|") and line.endswith("|")


def column_names(fields: list[str]) -> list[str]:
    """Unique names for all columns: an empty name and a repeated one get the column's number."""
    names: dict[str, None] = {}
    following: dict[str, int] = {}  # the number to try next for a name, so that many equal ones take no longer each
    for column, field in enumerate(fields, 1):
        name = unique = field.strip("\ufeff") if field.strip() else f"column {column}"
        column = max(column, following.get(name, 0))
        while unique in names:
            unique, column = f"{name} ({column})", column + 1
        names[unique] = None
        following[name] = column
    return list(names)


def _without_preamble(stream: TextIO) -> tuple[Iterator[str], str, int]:
    """All lines, without Excel's line "sep=;" and comments like "# exported today" before the header; the first; and
    how many lines were left out."""
    first_line, skipped = stream.readline(), 0
    while SEPARATOR_LINE.match(first_line.lstrip("\ufeff")) or COMMENT.match(first_line):
        first_line, skipped = stream.readline(), skipped + 1
    return itertools.chain([first_line], stream), first_line, skipped


def _has_blanks(lines: list[str], delimiter: str) -> bool:
    """Whether a blank follows the delimiters: before all names of the header, or before quotes."""
    try:
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    except csv.Error:
        return False
    if not rows or delimiter == "\t":
        return False
    if len(rows[0]) > 1 and all(field.startswith(" ") for field in rows[0][1:]):
        return True
    return any(re.match(' +".', field) for row in rows[1:] for field in row[1:])


def _without_frame(line: str) -> str:
    """A line of a Markdown table without its outer bars; nothing of the rule below the header."""
    return "" if RULE.match(line) else "|".join(cell.strip() for cell in line.strip().strip("|").split("|"))
