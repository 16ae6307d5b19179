"""Read plain text files: a record a question with its answer, a conversation, a paragraph, or a line."""

import re
from collections.abc import Iterator
from typing import TextIO

from playground.data.records import Reading, Record
from playground.data.transcripts import Transcripts, find_transcripts, split_transcripts
from playground.errors import Problem

START = 2**20  # characters that are searched for paragraphs


def read_text(stream: TextIO, reading: Reading) -> Iterator[Record]:
    """Read a record {"text"} a question with its answer, or a conversation, if names like "Q:" begin lines.

    Else a record a paragraph if blank lines separate any near the beginning, else a record a line.
    """
    start = stream.read(START)
    form = find_transcripts(start)
    if form:
        reading.notes += _notes(form)
        yield from split_transcripts(iter_lines(start, stream), form)
        return
    has_paragraphs = re.search(r"\n\s*\n", start.strip()) is not None
    reading.notes.append(Problem("note.paragraphs" if has_paragraphs else "note.lines"))
    number, paragraph = 0, []
    for line in iter_lines(start, stream):
        line = line.rstrip("\n")
        is_blank = not line.strip()
        if not is_blank:
            paragraph.append(line)
        if paragraph and (is_blank or not has_paragraphs):
            number += 1
            yield Record(number, {"text": "\n".join(paragraph)})
            paragraph = []
    if paragraph:
        yield Record(number + 1, {"text": "\n".join(paragraph)})


def _notes(form: Transcripts) -> list[Problem]:
    note = Problem("note.questions") if form.is_list else Problem("note.transcripts", {"lines": form.gap + 1})
    return [note, *([Problem("note.text_before", {"first": form.before})] if form.before else [])]


def iter_lines(start: str, stream: TextIO) -> Iterator[str]:
    """Iterate over a stream's lines, of which `start` was already read."""
    *complete, rest = start.split("\n")
    yield from complete
    for line in stream:
        yield rest + line
        rest = ""
    yield rest
