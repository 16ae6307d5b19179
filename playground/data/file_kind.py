"""Tell what kind of data a file or a pasted text is: JSON, JSON Lines, CSV, TSV, Parquet or plain text."""

import csv
import io
import re
from pathlib import Path

from playground import catalog
from playground.data import json_stream
from playground.errors import problem

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
ARCHIVE_SIGNATURES = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"(\xb5/\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}
ARCHIVE_SUFFIXES = {
    ".zip": "zip",
    ".gz": "gzip",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".zst": "zstd",
    ".7z": "7z",
    ".rar": "rar",
    ".tgz": "gzip",
}
TABLE_LINES = 20  # lines of a pasted text that are checked for a table
MAX_COLUMN_NAME = 40  # characters


def kind_of_file(path: Path) -> str:
    """The kind of a file, from its first bytes and its suffix: a value of KINDS.

    Raises PlaygroundError: an archive, an unknown suffix.
    """
    with open(path, "rb") as file:
        start = file.read(8)
    suffix = path.suffix.lower()
    archive = next((kind for mark, kind in ARCHIVE_SIGNATURES.items() if start.startswith(mark)), None)
    archive = archive or ARCHIVE_SUFFIXES.get(suffix)
    if archive:
        raise problem("error.packed", file=path.name, kind=archive)
    kind = "parquet" if start.startswith(b"PAR1") else KINDS.get(suffix)
    if kind is None:
        raise problem("error.file_kind", file=path.name, known=list(KINDS))
    return kind


def kind_of_text(text: str) -> str:
    """The kind of a pasted text: "json", "jsonl", "csv", "tsv" or "text"."""
    stripped = text.strip().removeprefix("\ufeff").lstrip()
    if re.match(r"\[\s*[{\]]", stripped):
        return "json"
    if re.match(r'\{\s*["}]', stripped):
        return "jsonl" if json_stream.is_json_lines(stripped) else "json"
    lines = stripped.splitlines()[:TABLE_LINES]
    for kind, delimiter in (("tsv", "\t"), ("csv", ","), ("csv", ";")):
        if _is_table(lines, delimiter):
            return kind
    return "text"


def _is_table(lines: list[str], delimiter: str) -> bool:
    """Whether lines are a table: a header of two or more short names, and rows with the same number of fields."""
    try:
        rows = [row for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter) if row]
    except csv.Error:
        return False
    if len(rows) < 2 or len(rows[0]) < 2:
        return False
    header, *_ = rows
    complete = rows[:-1] if len(rows) > 2 else rows  # the last one may be cut
    if any(len(row) != len(header) for row in complete):
        return False
    known = {name for entry in catalog.column_names().values() for name in entry["names"]}
    if delimiter == "\t" or any(name.strip().lower() in known for name in header):
        return True
    if len(rows) <= 2:  # two lines with a comma each may as well be prose
        return False
    return len(set(header)) == len(header) and all(
        0 < len(name) <= MAX_COLUMN_NAME and name == name.strip() for name in header
    )
