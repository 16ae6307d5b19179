"""Read a sheet of an Excel workbook row by row."""

import decimal
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playground.data.csv_reader import column_names
from playground.data.file_kind import ZIP_ERRORS
from playground.data.parquet import MAX_UNPACKED_BYTES
from playground.data.records import Reading, Record
from playground.data.row import text_of
from playground.errors import PlaygroundError, Problem, problem

NO_CODE = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]|_.|\*.')  # texts, colors and blanks of a number format
PERCENT = re.compile(r"[#0?,]*(?:\.(?P<decimals>[#0?]+))?\s*%")
MAX_ROWS = 1_048_576  # of a sheet in Excel; a file may claim more, and openpyxl makes an empty row of each


def read_excel(path: Path, reading: Reading, sheet: str = "") -> Iterator[Record]:
    """Open a workbook and read the rows below the header of a sheet, by default of the first.

    A formula has the value that it had when the file was saved. Raises PlaygroundError: not a workbook, no such sheet
    (naming those that exist), too large once unpacked.
    """
    _check_size(path)
    try:
        import openpyxl

        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # a broken workbook may raise anything
        raise _read_error(path, error) from error
    reading.parts = [found.title for found in book.worksheets]
    reading.closers.append(book.close)
    if not reading.parts or (sheet and sheet not in reading.parts):
        raise problem("error.part_absent", file=path.name, part=sheet, parts=reading.parts)
    chosen = sheet or reading.parts[0]
    if len(reading.parts) > 1 and not sheet:
        reading.add_note(Problem("note.sheet", {"sheet": chosen, "others": reading.parts[1:]}))
    return _records(book[chosen], path)


def _records(sheet: Any, path: Path) -> Iterator[Record]:
    """The rows that aren't blank; the first is the header."""
    header: list[str] | None = None
    number = 0
    rows = _values(sheet, path)
    for values in rows:
        if not any(text_of(value).strip() for value in values):
            continue
        if header is None:
            while values and not text_of(values[-1]).strip():
                values = values[:-1]
            header = column_names([text_of(value) for value in values])
            continue
        number += 1
        has_extra = any(text_of(value).strip() for value in values[len(header) :])
        yield Record(number, dict(zip(header, values)), "fields" if has_extra else "")


def _values(sheet: Any, path: Path) -> Iterator[tuple]:
    try:
        sheet.reset_dimensions()  # some programs write wrong ones
        for count, cells in enumerate(sheet.iter_rows(), 1):
            if count > MAX_ROWS:
                raise ValueError(f"more than {MAX_ROWS:,} rows")
            yield tuple(map(_shown, cells))
    except PlaygroundError:
        raise
    except Exception as error:
        raise _read_error(path, error) from error


def _shown(cell: Any) -> Any:
    """A cell's value as a sheet shows it: 12.5% rather than 0.125, 3 rather than 3.0."""
    value = cell.value
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return value
    percent = PERCENT.search(NO_CODE.sub("", str(cell.number_format).split(";")[0]))
    if percent:
        return _percent(value, percent["decimals"] or "")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _percent(value: float, decimals: str) -> str:
    """A share in percent with the decimals of a number format: 0 always stands, # and ? only where it isn't 0."""
    try:
        rounded = (decimal.Decimal(repr(value)) * 100).quantize(
            decimal.Decimal(1).scaleb(-len(decimals)), "ROUND_HALF_UP"
        )
    except decimal.InvalidOperation:  # NaN, infinite, or too many digits
        return f"{value:%}"
    whole, _, digits = f"{rounded:f}".partition(".")
    fixed = len(decimals.rstrip("#?"))
    digits = digits[:fixed] + digits[fixed:].rstrip("0")
    return f"{whole}.{digits}%" if digits else f"{whole}%"


def _check_size(path: Path) -> None:
    """Raises PlaygroundError for a workbook that unpacks to too much: its parts' sizes, which `zipfile` enforces."""
    try:
        with zipfile.ZipFile(path) as parts:
            size = sum(part.file_size for part in parts.infolist())
    except ZIP_ERRORS as error:
        raise _read_error(path, error) from error
    if size > MAX_UNPACKED_BYTES:
        raise problem("error.unpacked", file=path.name, size_bytes=size, most_bytes=MAX_UNPACKED_BYTES)


def _read_error(path: Path, error: Exception) -> PlaygroundError:
    detail = (str(error) or type(error).__name__).split("\n")[0][:160]
    return problem("error.excel", file=path.name, detail=detail)
