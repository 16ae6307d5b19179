"""A file as records, one at a time, each with its number and its line: JSON, JSON Lines, CSV, TSV, Parquet, plain text.

json and csv of the standard library, and pyarrow for Parquet: the JSON and CSV builders of `datasets` name no row of a broken
file, fail where a column holds numbers and texts, and write all of it to disk before the first row is seen.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from playground import catalog
from playground.data import encodings, json_stream, parquet
from playground.errors import PlaygroundError, Problem, problem

MOST_BYTES = 100 * 2**20
BATCH = 1000  # rows of a Parquet file at once
TOLD = 5  # broken lines in one message
KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
}
PACKED = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"(\xb5/\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}
PACKED_ENDS = {
    ".zip": "zip",
    ".gz": "gzip",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".zst": "zstd",
    ".7z": "7z",
    ".rar": "rar",
    ".tgz": "gzip",
}


class Record(NamedTuple):
    """A record as it stands in its source. `number` and `line` count from 1 (line 0: it has none); `unfit`: why it can't be used."""

    number: int
    line: int
    values: dict
    unfit: str = ""


@dataclass
class Reading:
    """A source that is being read. `size` in bytes (0: unknown); `total` records, where that is known before the end.

    `problems`: broken lines met so far, which the end of the records raises; `notes`: what was taken for what.
    """

    name: str
    kind: str
    size: int = 0
    encoding: encodings.Encoding | None = None
    total: int | None = None
    records: Iterator[Record] = iter(())
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    raw: io.IOBase | None = None

    def __enter__(self) -> "Reading":
        return self

    def __exit__(self, *_) -> None:
        if self.raw:
            self.raw.close()

    @property
    def done(self) -> int:
        """Bytes read so far."""
        return self.raw.tell() if self.raw and not self.raw.closed else self.size  # closed at its end

    def broken(self, found: Problem) -> None:
        """Go on after a broken line, so that several are told at once."""
        self.problems.append(found)
        if len(self.problems) >= TOLD:
            raise PlaygroundError(*self.problems)

    def end(self) -> None:
        if self.problems:
            raise PlaygroundError(*self.problems)


def read_file(path: Path, encoding: str = "auto", look: int = 0, on_progress: Callable = lambda *_: None) -> Reading:
    """A file opened; its records are read as they're asked for. `look`: find out the encoding from so many bytes alone.

    Raises PlaygroundError, here or while records are read: too large, packed, of no known kind, bytes that aren't text,
    broken lines with their numbers.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise problem("error.large_file", file=path.name, size_bytes=size, most_bytes=MOST_BYTES)
    kind = _kind(path)
    reading = Reading(path.name, kind, size)
    if kind == "parquet":
        reading.total, found = parquet.open_parquet(path, BATCH // 10 if look else BATCH)
        reading.records = (Record(number, 0, values) for number, values in enumerate(found, 1))
        return reading
    reading.encoding = encodings.detect(path, encoding, look, on_progress)
    reading.raw = open(path, "rb")
    stream = io.TextIOWrapper(
        reading.raw, encoding=reading.encoding.name, newline="" if kind in ("csv", "tsv") else None
    )
    if reading.encoding.guessed:
        reading.notes.append(Problem("note.encoding_guessed", {"encoding": reading.encoding.name}))
    reading.records = _decoded(
        {"jsonl": _json, "json": _json, "csv": _csv, "tsv": _csv, "text": _text}[kind](stream, reading), reading
    )
    return reading


def guess_kind(text: str) -> str:
    """What a pasted text is: "json", "jsonl", "csv", "tsv" or "text"."""
    stripped = text.strip().removeprefix("\ufeff").lstrip()
    if re.match(r"\[\s*[{\]]", stripped):
        return "json"
    if re.match(r'\{\s*["}]', stripped):
        return "jsonl" if json_stream.is_json_lines(stripped) else "json"
    lines = stripped.splitlines()[:20]
    for kind, delimiter in (("tsv", "\t"), ("csv", ","), ("csv", ";")):
        if _table(lines, delimiter):
            return kind
    return "text"


def _table(lines: list[str], delimiter: str) -> bool:
    """Whether these lines are a table: a header of two short names or more, and rows of as many fields."""
    try:
        rows = [row for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter) if row]
    except csv.Error:
        return False
    if len(rows) < 2 or len(rows[0]) < 2:
        return False
    header, usual = rows[0], {name for entry in catalog.column_names().values() for name in entry["names"]}
    whole = rows[:-1] if len(rows) > 2 else rows  # the last one may be cut
    if any(len(row) != len(header) for row in whole):
        return False
    if any(name.strip().lower() in usual for name in header) or delimiter == "\t":
        return True
    names = len(set(header)) == len(header) and all(0 < len(name) <= 40 and name == name.strip() for name in header)
    return names and len(rows) > 2  # two lines with a comma each may as well be prose


def _kind(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(8)
    ends = path.suffix.lower()
    packed = next((kind for mark, kind in PACKED.items() if start.startswith(mark)), None) or PACKED_ENDS.get(ends)
    if packed:
        raise problem("error.packed", file=path.name, kind=packed)
    kind = "parquet" if start.startswith(b"PAR1") else KINDS.get(ends)
    if kind is None:
        raise problem("error.file_kind", file=path.name, known=list(KINDS))
    return kind


def _decoded(records: Iterator[Record], reading: Reading) -> Iterator[Record]:
    """The records; bytes that aren't text, met beyond what was looked at, are told."""
    try:
        yield from records
    except UnicodeError as error:
        raise problem("error.encoding_late", file=reading.name, encoding=reading.encoding.name) from error
    reading.end()


def _jsonl(stream, reading: Reading) -> Iterator[Record]:
    number = 0
    for line, text in enumerate(stream, 1):
        if not text.strip():
            continue
        number += 1
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            reading.broken(
                Problem(
                    "error.json",
                    {"file": reading.name, "line": line, "detail": getattr(error, "msg", str(error))[:160]},
                )
            )
            continue
        if isinstance(found, dict):
            yield Record(number, line, found)
        else:
            reading.broken(Problem("error.not_object", {"file": reading.name, "row": number}))


def _json(stream, reading: Reading) -> Iterator[Record]:
    """Records of a JSON file, whatever it's called: a list of objects, an object that holds such a list, one object alone, or one object a line."""
    start = stream.read(json_stream.CHUNK)
    stripped = start.lstrip("\ufeff \t\r\n")
    begins, spread = stripped[:1], stripped.split("\n", 1)[0].strip() == "{"
    if (reading.kind == "jsonl" and begins != "[" and not spread) or (
        begins == "{" and json_stream.is_json_lines(start)
    ):
        yield from _jsonl(_lines(start, stream), reading)
        return
    found = (
        json_stream.iter_elements(start, stream, reading.name)
        if begins == "["
        else _whole(start + stream.read(), reading)
    )
    for number, (line, value) in enumerate(found, 1):
        if isinstance(value, dict):
            yield Record(number, line, value)
        else:
            reading.broken(Problem("error.not_object", {"file": reading.name, "row": number}))


def _lines(start: str, stream) -> Iterator[str]:
    """The lines of a stream whose beginning was read already."""
    *whole, rest = start.split("\n")
    yield from whole
    for line in stream:
        yield rest + line
        rest = ""
    yield rest


def _whole(text: str, reading: Reading) -> list[tuple[int, object]]:
    found, others = json_stream.parse_wrapped(text, reading.name)
    if others:
        reading.notes.append(Problem("note.other_lists", {"lists": others}))
    return [(0, value) for value in found]


def _csv(stream, reading: Reading) -> Iterator[Record]:
    csv.field_size_limit(MOST_BYTES)
    delimiter = "\t" if reading.kind == "tsv" else None
    first = stream.readline()
    if delimiter is None:
        delimiter = max(",;\t", key=first.count)
        if delimiter != ",":
            reading.notes.append(Problem("note.delimiter", {"delimiter": {";": ";", "\t": "tab"}[delimiter]}))
    rows = csv.reader(_again(first, stream), delimiter=delimiter, strict=True)
    header, number, line = None, 0, 0
    while True:
        line = rows.line_num + 1
        try:
            fields = next(rows, None)
        except csv.Error as error:
            key = "error.csv_quote" if "end of data" in str(error) else "error.csv"
            raise PlaygroundError(
                *reading.problems, Problem(key, {"file": reading.name, "line": line, "detail": str(error)})
            ) from error
        if fields is None:
            return
        if not fields:
            continue
        if header is None:
            header = _header(fields)
            continue
        number += 1
        more = [field for field in fields[len(header) :] if field.strip()]
        yield Record(number, line, dict(zip(header, fields)), "fields" if more else "")


def _again(first: str, stream) -> Iterator[str]:
    yield first
    yield from stream


def _header(fields: list[str]) -> list[str]:
    """A name for every column: those without one are numbered, and so is a name's second use."""
    names: dict[str, None] = {}
    for place, given in enumerate(fields, 1):
        name = free = given.strip("\ufeff") if given.strip() else f"column {place}"
        while free in names:
            free, place = f"{name} ({place})", place + 1
        names[free] = None
    return list(names)


def _text(stream, reading: Reading) -> Iterator[Record]:
    """A record a paragraph where blank lines part them, else a record a line."""
    start = stream.read(json_stream.CHUNK)
    paragraphs = re.search(r"\n\s*\n", start.strip()) is not None
    reading.notes.append(Problem("note.paragraphs" if paragraphs else "note.lines"))
    number, begun, loaded = 0, 0, []
    for line, text in enumerate(_lines(start, stream), 1):
        text = text.rstrip("\n")
        if text.strip():
            begun = begun or line
            loaded.append(text)
        if loaded and (not paragraphs or not text.strip()):
            number += 1
            yield Record(number, begun, {"text": "\n".join(loaded)})
            loaded, begun = [], 0
    if loaded:
        yield Record(number + 1, begun, {"text": "\n".join(loaded)})
