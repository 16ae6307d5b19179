"""Open a data file and read it record by record: JSON, JSON Lines, CSV, TSV, Parquet, Arrow, Excel or plain text.

The parsers are json and csv of the standard library, pyarrow for Parquet and Arrow, and openpyxl for Excel. The JSON
and CSV builders of `datasets` aren't used: they name no row of a broken file, fail where a column mixes numbers and
texts, and write the whole file to disk before the first row is available.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

from playground.data import arrow, encodings, excel, packed, parquet
from playground.data.csv_reader import read_csv
from playground.data.file_kind import KINDS, kind_of_file
from playground.data.json_reader import read_json
from playground.data.records import Reading, Record
from playground.data.text_kind import kind_within, without_fence
from playground.data.text_reader import read_text
from playground.errors import Problem, problem

__all__ = ["KINDS", "MAX_FILE_BYTES", "read_file"]

MAX_FILE_BYTES = 100 * 2**20
KIND_NAMES = {"json": "JSON", "jsonl": "JSON Lines", "csv": "CSV", "tsv": "TSV"}
SNIFFED_CHARS = 2**16  # of a text file, which tell JSON and tables from prose
BATCH, PREVIEW_BATCH = 1000, 100  # rows of Parquet and Arrow files read at once


def read_file(
    path: Path,
    encoding: str = "auto",
    preview_bytes: int = 0,
    on_progress: Callable = lambda *_: None,
    part: str = "",
) -> Reading:
    """Open a file; its records are read while they are iterated over.

    preview_bytes: detect the encoding from that many bytes alone (0: from the whole file). part: the sheet of a
    workbook, by default its first. Raises PlaygroundError, at once or while records are read: too large, an archive, an
    unknown kind, bytes that aren't text, broken lines with their numbers.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise problem("error.large_file", file=path.name, size_bytes=size, most_bytes=MAX_FILE_BYTES)
    kind = kind_of_file(path)
    if kind in packed.SUFFIXES.values():
        return _read_packed(path, kind, encoding, preview_bytes, on_progress, part)
    reading = Reading(path.name, kind, size)
    batch_rows = PREVIEW_BATCH if preview_bytes else BATCH
    if kind == "parquet":
        reading.total, values = parquet.open_parquet(path, batch_rows)
        reading.records = _numbered(values)
    elif kind == "arrow":
        reading.records = _numbered(arrow.open_arrow(path, batch_rows))
    elif kind == "excel":
        reading.records = excel.read_excel(path, reading, part)
    else:
        reading.encoding = encodings.detect(path, encoding, preview_bytes, on_progress)
        _open_text(path, reading, reading.encoding)
    return reading


def _read_packed(
    path: Path, packing: str, encoding: str, preview_bytes: int, on_progress: Callable, part: str
) -> Reading:
    """Unpack a file, and read what was in it; the unpacked file is removed with the reading."""
    unpacked, folder = packed.unpack(path, packing, MAX_FILE_BYTES, on_progress)
    try:
        if kind_of_file(unpacked) in packed.SUFFIXES.values():
            raise problem("error.packed", file=path.name, kind=packing)
        reading = read_file(unpacked, encoding, preview_bytes, on_progress, part)
    except BaseException:
        folder.cleanup()
        raise
    reading.closers.insert(0, folder.cleanup)
    return reading


def _open_text(path: Path, reading: Reading, encoding: encodings.Encoding) -> None:
    """Open a text file and tell from its content how to read it."""
    if encoding.guessed:
        reading.notes.append(Problem("note.encoding_guessed", {"encoding": encoding.name}))
    start = _start(path, encoding.name)
    fenced = reading.kind == "text" and start.lstrip("\ufeff \t\r\n").startswith("```")
    found = kind_within(start.split("\n", 1)[-1] if fenced else start, reading.kind)
    if found != reading.kind:
        reading.notes.append(Problem("note.other_kind", {"kind": KIND_NAMES[found]}))
    reading.kind, reading.file = found, open(path, "rb")
    newline = "" if reading.kind in ("csv", "tsv") else None  # csv parses line ends within quotes itself
    stream: TextIO = io.TextIOWrapper(reading.file, encoding=encoding.name, newline=newline)
    if fenced:
        stream = io.StringIO(without_fence(stream.read(), True), newline)
    reading.records = _checked(_parse(stream, reading), reading, encoding.name)


def _numbered(values: Iterable[dict]) -> Iterator[Record]:
    return (Record(number, value) for number, value in enumerate(values, 1))


def _start(path: Path, encoding: str) -> str:
    with open(path, encoding=encoding, errors="replace") as file:
        return file.read(SNIFFED_CHARS)


def _parse(stream: TextIO, reading: Reading) -> Iterator[Record]:
    if reading.kind in ("json", "jsonl"):
        return read_json(stream, reading)
    if reading.kind in ("csv", "tsv"):
        return read_csv(stream, reading, MAX_FILE_BYTES)
    return read_text(stream, reading)


def _checked(records: Iterator[Record], reading: Reading, encoding: str) -> Iterator[Record]:
    """The records; raises PlaygroundError for undecodable bytes beyond the preview, and in the end for broken lines."""
    try:
        yield from records
    except UnicodeError as error:
        raise problem("error.encoding_late", file=reading.name, encoding=encoding) from error
    reading.raise_problems()
