"""Open a data file and read it record by record: JSON, JSON Lines, CSV, TSV, Parquet or plain text.

The parsers are json and csv of the standard library, and pyarrow for Parquet. The JSON and CSV builders of `datasets`
aren't used: they name no row of a broken file, fail where a column mixes numbers and texts, and write the whole file to
disk before the first row is available.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from playground.data import encodings, parquet
from playground.data.csv_reader import read_csv
from playground.data.file_kind import KINDS, kind_of_file, kind_within, without_fence
from playground.data.json_reader import read_json
from playground.data.records import Reading, Record
from playground.data.text_reader import read_text
from playground.errors import Problem, problem

__all__ = ["KINDS", "MAX_FILE_BYTES", "read_file"]

MAX_FILE_BYTES = 100 * 2**20
KIND_NAMES = {"json": "JSON", "jsonl": "JSON Lines", "csv": "CSV", "tsv": "TSV"}
SNIFFED_CHARS = 2**16  # of a text file, which tell JSON and tables from prose
PARQUET_BATCH, PARQUET_PREVIEW_BATCH = 1000, 100  # rows read at once


def read_file(
    path: Path, encoding: str = "auto", preview_bytes: int = 0, on_progress: Callable = lambda *_: None
) -> Reading:
    """Open a file; its records are read while they are iterated over.

    preview_bytes: detect the encoding from that many bytes alone (0: from the whole file). Raises PlaygroundError, at
    once or while records are read: too large, an archive, an unknown kind, bytes that aren't text, broken lines with
    their numbers.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise problem("error.large_file", file=path.name, size_bytes=size, most_bytes=MAX_FILE_BYTES)
    reading = Reading(path.name, kind_of_file(path), size)
    if reading.kind == "parquet":
        batch_rows = PARQUET_PREVIEW_BATCH if preview_bytes else PARQUET_BATCH
        reading.total, values = parquet.open_parquet(path, batch_rows)
        reading.records = (Record(number, value) for number, value in enumerate(values, 1))
        return reading
    detected = encodings.detect(path, encoding, preview_bytes, on_progress)
    if detected.guessed:
        reading.notes.append(Problem("note.encoding_guessed", {"encoding": detected.name}))
    reading.encoding = detected
    start = _start(path, detected.name)
    fenced = reading.kind == "text" and start.lstrip("\ufeff \t\r\n").startswith("```")
    found = kind_within(start.split("\n", 1)[-1] if fenced else start, reading.kind)
    if found != reading.kind:
        reading.notes.append(Problem("note.other_kind", {"kind": KIND_NAMES[found]}))
    reading.kind, reading.file = found, open(path, "rb")
    newline = "" if reading.kind in ("csv", "tsv") else None  # csv parses line ends within quotes itself
    stream: TextIO = io.TextIOWrapper(reading.file, encoding=detected.name, newline=newline)
    if fenced:
        stream = io.StringIO(without_fence(stream.read(), True), newline)
    reading.records = _checked(_parse(stream, reading), reading, detected.name)
    return reading


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
