"""Tell what kind of data a text is: JSON, JSON Lines, CSV, TSV or prose; and unpack code fences."""

import csv
import io
import re

from playground.data import json_stream
from playground.data.csv_reader import is_markdown
from playground.data.names import is_known
from playground.data.transcripts import begins_with_speaker, find_transcripts

TABLE_LINES = 20  # lines of a text that are checked for a table
MAX_COLUMN_NAME = 40  # characters
FENCE = re.compile(r"^```[\w+-]*[ \t]*\r?\n(.*?)\r?\n?^```[ \t]*$", re.MULTILINE | re.DOTALL)


def kind_of_text(text: str, is_file: bool = False) -> str:
    """The kind of a pasted text, or of a text file: "json", "jsonl", "csv", "tsv" or "text".

    is_file: whether a comma alone makes no table, since a file of prose has them too.
    """
    stripped = text.strip().removeprefix("\ufeff").lstrip()
    if re.match(r"\[\s*([{\[\]\"]|'[^']*'\s*[,\]:])", stripped):
        return "jsonl" if json_stream.is_json_lines(stripped) else "json"
    if re.match(r"""\{\s*["'}]""", stripped):
        return "jsonl" if json_stream.is_json_lines(stripped) else "json"
    if begins_with_speaker(stripped) and find_transcripts(stripped):
        return "text"
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
