"""Show what is taught of a data set: how many rows and answers, what is left out and why, and some rows as trained."""

from typing import Any

from transformers import ByT5Tokenizer

from playground import catalog
from playground.data.batch import IGNORED, encode
from playground.data.row import Row
from playground.data.row_notes import row_notes
from playground.data.selection import SelectedRows
from playground.data.template import Template
from playground.data.template_choice import choose_template, choose_template_for
from playground.model.source import local_folder
from playground.planning.rows import ignore_progress, read_model, read_rows
from playground.settings import Settings

WITHOUT_LIMIT = 10**9  # tokens: no answer in a sample is cut


def taught_rows(settings: Settings, first: int = 5) -> dict:
    """What is taught of a data set.

    Returns {"rows" (records in the source), "taught" (answers), "held_out" (answers), "left_out" ({reason: rows or
    answers}), "unused_columns", "notes" ([{"key", "values"}]), "prompt_format", "sample" (of the first rows: {"number",
    "system" (None if there is none), "context" ([[question, answer]]), "question", "answer", "prompt", "trained"})}.
    "trained" is the text of the tokens that carry a label, end token included. Raises PlaygroundError: rows that can't
    be read, none left, a prompt format that doesn't suit the model.
    """
    _, rows = read_rows(settings.data, ignore_progress)
    template, notes = _template(settings, rows)
    notes += row_notes(rows.train, template)
    return {
        "rows": rows.records,
        "taught": sum(_count_answers(row, template) for row in rows.train),
        "held_out": len(rows.held_out),
        "left_out": rows.left_out,
        "unused_columns": list(rows.unused_columns),
        "notes": [
            *({"key": note.key, "values": note.values} for note in rows.notes),
            *({"key": note["key"], "values": note["values"]} for note in notes),
        ],
        "prompt_format": template.name,
        "sample": [_sample(row, template) for row in rows.train[: max(0, first)]],
    }


def _template(settings: Settings, rows: SelectedRows) -> tuple[Template, list[dict]]:
    """The template for these rows, and `note` events about it.

    Without the model's tokenizer on this machine, texts are shown with a tokenizer of bytes that ends them with </s>.
    """
    data, questions = settings.data, [row.instruction for row in rows.train]
    if local_folder(settings.load.model) is not None:
        _, model = read_model(settings.load)
        return choose_template_for(model, data.prompt_format, questions, data.custom_format)
    template = choose_template(data.prompt_format, ByT5Tokenizer(), questions, custom_format=data.custom_format)
    values = {"model": catalog.display_name(settings.load.model), "end": template.tokenizer.eos_token}
    return template, [{"kind": "note", "key": "note.stand_in_tokenizer", "values": values}]


def _count_answers(row: Row, template: Template) -> int:
    """The answers that are taught of a row: more than one only in a text that already is in a chat template."""
    whole = template.texts.whole(row)
    return len(template.texts.answers(whole)) if whole else 1


def _sample(row: Row, template: Template) -> dict[str, Any]:
    """A row, and the text that is trained on."""
    [example], _ = encode([row], template, WITHOUT_LIMIT)
    ids, labels = list(example.ids), example.labels()
    prompt = _decode(template, ids[: example.trained_from])
    trained = "".join(
        _decode(template, ids[:end])[len(_decode(template, ids[:begin])) :] for begin, end in _labelled_spans(labels)
    )
    return {
        "number": row.number,
        "system": row.system if row.systems else None,
        "context": [list(turn) for turn in row.before],
        "question": "\n\n".join(text for text in (row.instruction, row.input) if text),
        "answer": row.output,
        "prompt": prompt,
        "trained": trained,
    }


def _labelled_spans(labels: list[int]) -> list[tuple[int, int]]:
    """Where labelled tokens begin and end."""
    edges = [n for n in range(len(labels) + 1) if _is_labelled(labels, n) != _is_labelled(labels, n - 1)]
    return list(zip(edges[::2], edges[1::2]))


def _is_labelled(labels: list[int], number: int) -> bool:
    return 0 <= number < len(labels) and labels[number] != IGNORED


def _decode(template: Template, ids: list[int]) -> str:
    return str(template.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
