"""Notes on rows as a template writes them: special tokens' texts, texts in a chat template, dropped reasoning."""

from collections import Counter
from collections.abc import Iterator, Sequence

from playground.data.conversation import turns
from playground.data.row import Row
from playground.data.template import Template
from playground.data.templated_text import FOREIGN

MAX_TEXTS = 4  # different special tokens in a note
MAX_NUMBERS = 8  # row numbers in a note
REASONED = "</think>"  # what ends the reasoning in an answer


def row_notes(rows: Sequence[Row], template: Template) -> list[dict]:
    """`note` events on what is special about rows in this template; none where nothing is."""
    found: dict[str, list[Row]] = {}
    texts: dict[str, Counter[str]] = {}
    for row in rows:
        for key, marks in _remarks(row, template):
            found.setdefault(key, []).append(row)
            texts.setdefault(key, Counter()).update(marks)
    notes = []
    for key, remarked in found.items():
        numbers = [row.number for row in remarked[:MAX_NUMBERS]]
        values = {
            "count": len(remarked),
            "rows": numbers,
            "texts": [text for text, _ in texts[key].most_common(MAX_TEXTS)],
        }
        notes.append({"kind": "note", "key": key, "values": values})
    return notes


def _remarks(row: Row, template: Template) -> Iterator[tuple[str, list[str]]]:
    """What is special about a row: a note's key, and the marks that show it."""
    if template.texts.whole(row):
        yield "note.in_template", []
        return
    has_prompt = template.has_prompt(row)
    others = FOREIGN.findall(row.output) if not has_prompt else []
    if others:
        yield "note.in_other_template", list(dict.fromkeys(others))
    contents = [row.system, *(text for turn in row.before for text in turn), row.instruction, row.input]
    contents.append(template.answer_text(row))
    marks = list(dict.fromkeys(mark for text in contents for mark in template.chat_template.special.find(text)))
    if marks and has_prompt and (template.is_chat or template.name != "chat"):
        yield "note.special_as_text", marks
    elif marks:
        yield "note.special_as_token", marks
    if REASONED in row.output and template.is_chat and has_prompt:
        written = template.chat_template.conversation(turns(row), row.systems, row.output).text
        if row.output.split(REASONED)[0].removeprefix("<think>").strip() not in written:
            yield "note.reasoning_dropped", []
