"""Tell what kind of data a file or a pasted text is: JSON, JSON Lines, CSV, TSV, Parquet or plain text."""

import csv
import io
import re
from pathlib import Path

from playground.data import json_stream
from playground.data.csv_reader import is_markdown
from playground.data.names import is_known
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
FENCE = re.compile(r"^```[\w+-]*[ \t]*\r?\n(.*?)\r?\n?^```[ \t]*$", re.MULTILINE | re.DOTALL)


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


def kind_of_text(text: str, is_file: bool = False) -> str:
    """The kind of a pasted text, or of a text file: "json", "jsonl", "csv", "tsv" or "text".

    is_file: whether a comma alone makes no table, since a file of prose has them too.
    """
    stripped = text.strip().removeprefix("\ufeff").lstrip()
    if re.match(r"\[\s*([{\[\]\"]|'[^']*'\s*[,\]:])", stripped):
        return "jsonl" if json_stream.is_json_lines(stripped) else "json"
    if re.match(r"""\{\s*["'}]""", stripped):
        return "jsonl" if json_stream.is_json_lines(stripped) else "json"
    lines = stripped.splitlines()[:TABLE_LINES]
    if len(lines) > 1 and is_markdown(lines[0]) and is_markdown(lines[1]):
        return "csv"
    for kind, delimiter in (("tsv", "\t"), ("csv", ","), ("csv", ";"), ("csv", "|")):
        if _is_table(lines, delimiter, is_file):
            return kind
    return "text"


def kind_within(start: str, kind: str) -> str:
    """The kind of a text file by how its content begins: JSON may have a table's suffix, and both that of a text."""
    if kind not in ("text", "csv", "tsv"):
        return kind
    found = kind_of_text(start, True)
    return found if kind == "text" or found in ("json", "jsonl") else kind


def without_fence(text: str, is_file: bool = False) -> str:
    """The inside of the one code fence in a text, any other text unchanged.

    Around a fence with data a pasted text may have prose, as the answers of a chat do; a file (is_file) may not.
    """
    blocks = FENCE.findall(text) if "```" in text else []
    if len(blocks) != 1:
        return text
    is_all = not FENCE.sub("", text).strip("\ufeff \t\r\n")
    return blocks[0] if is_all or (not is_file and kind_of_text(blocks[0]) != "text") else text


def _is_table(lines: list[str], delimiter: str, needs_name: bool = False) -> bool:
    """Whether lines are a table: a header of two or more short names, and rows with the same number of fields.

    needs_name: whether one of the names has to be known.
    """
    try:
        text = io.StringIO("\n".join(lines))
        rows = [row for row in csv.reader(text, delimiter=delimiter, skipinitialspace=True) if row]
    except csv.Error:
        return False
    if len(rows) < 2 or len(rows[0]) < 2:
        return False
    header, *_ = rows
    complete = rows[:-1] if len(rows) > 2 else rows  # the last one may be cut
    if any(len(row) != len(header) for row in complete):
        return False
    if delimiter == "\t" or any(is_known(name) for name in header):
        return True
    if needs_name or len(rows) <= 2:  # two lines with a comma each may as well be prose
        return False
    return len(set(header)) == len(header) and all(
        0 < len(name) <= MAX_COLUMN_NAME and name == name.strip() for name in header
    )
