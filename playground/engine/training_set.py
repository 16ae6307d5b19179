"""The rows of a fine-tune, encoded for its model: to train on and to evaluate on, with notes about them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from playground.data.batch import Example, encode
from playground.data.fit import fit_turns
from playground.data.row_notes import row_notes
from playground.data.source import Row, SelectedRows
from playground.data.template import Template
from playground.data.template_choice import choose_template_for
from playground.engine.evaluation import EvalSet
from playground.errors import problem
from playground.eval.answer_rows import answer_token_limit, answerable_rows
from playground.model import adapt
from playground.model.embedding import embedding_name, first_unknown_token, resize_embedding
from playground.model.language_part import max_context_length
from playground.model.load import LoadedModel
from playground.model.tokenizer import round_trip_notes
from playground.settings import Lora, Settings


@dataclass
class TrainingSet:
    """Encoded rows to train on and to evaluate on, and notes for the person about them."""

    template: Template
    examples: list[Example]
    eval_set: EvalSet
    rows: int
    notes: list[dict] = field(default_factory=list)


def encode_rows(rows: SelectedRows, settings: Settings, loaded: LoadedModel) -> TrainingSet:
    """Encode rows with the template that suits model and data. Raises PlaygroundError where they don't fit."""
    train, data = settings.train, settings.data
    instructions = [row.instruction for row in rows.train]
    template, notes = choose_template_for(loaded, data.prompt_format, instructions, data.custom_format)
    positions = max_context_length(loaded.model.config)
    if positions and train.max_seq_length > positions:
        raise problem("error.length", length=train.max_seq_length, longest=positions)
    train_rows, shortened = fit_turns(rows.train, template, train.max_seq_length)
    examples, truncated = encode(train_rows, template, train.max_seq_length, data.train_on_prompt)
    notes = [*notes, *_know_tokens(loaded, template, train_rows, examples, settings.lora)]
    eval_rows, _ = fit_turns(_eval_rows(rows, train.eval_rows), template, train.max_seq_length)
    eval_examples, _ = encode(eval_rows, template, train.max_seq_length, may_be_empty=True)
    questions = answerable_rows(eval_rows, template, train.max_seq_length, positions)
    eval_set = EvalSet(eval_examples, questions, template, answer_token_limit(eval_rows, template))
    texts = (text for row in rows.train for text in (row.output, row.instruction, row.input))
    notes = [*notes, *row_notes(rows.train, template), *round_trip_notes(loaded.tokenizer, texts)]
    notes += [{"kind": "note", "key": note.key, "values": note.values} for note in rows.notes]
    counts = {"rows": len(rows.train), "held_out": len(rows.held_out), "total": rows.total}
    notes.append({"kind": "note", "key": "note.data", "values": counts | {"template": template.name}})
    left_out = len(train_rows) - len(examples)
    not_evaluated = len(eval_rows) - len(eval_examples)
    notes += _length_notes(truncated - left_out, left_out, shortened, not_evaluated, train.max_seq_length)
    return TrainingSet(template, examples, eval_set, len(rows.train), notes)


def _know_tokens(
    loaded: LoadedModel, template: Template, rows: list[Row], examples: list[Example], lora: Lora
) -> Iterator[dict]:
    """Grow the embedding for tokens that it has no row for, if it is trained; a `note` event says so.

    Such tokens were added to the tokenizer alone. Raises PlaygroundError for one if the embedding isn't trained.
    """
    unknown = first_unknown_token(loaded, (token for example in examples for token in example.ids))
    if unknown is None:
        return
    if adapt.is_named(embedding_name(loaded.model), lora.modules_to_save):
        resize_embedding(loaded.model, len(loaded.tokenizer))
        values = {"rows": len(loaded.tokenizer), "before": unknown.rows}
        yield {"kind": "note", "key": "note.embedding_grown", "values": values}
        return
    for row, encoded in zip(rows, template.encoded(rows)):
        found = first_unknown_token(loaded, [*encoded.prompt, *encoded.answer])
        if found:
            raise problem("error.token_in_row", row=row.number, token=found.token, id=found.id, rows=found.rows)


def _length_notes(cut: int, left_out: int, shortened: int, not_evaluated: int, length: int) -> list[dict]:
    """What the maximum length does to the rows: answers cut, rows left out, and conversations without early turns.

    not_evaluated: how many of the held-out rows it leaves out.
    """
    counts = {
        "note.turns_left_out": shortened,
        "note.answers_cut": cut,
        "note.too_long": left_out,
        "note.held_out_too_long": not_evaluated,
    }
    return [
        {"kind": "note", "key": key, "values": {"count": count, "length": length}}
        for key, count in counts.items()
        if count
    ]


def _eval_rows(rows: SelectedRows, count: int) -> list[Row]:
    """At most `count` of the held-out rows, evenly spaced."""
    return rows.held_out[:: max(1, math.ceil(len(rows.held_out) / count))] if count else []
