"""Rows asked as a person would ask them, greedily: what is measured, and what is watched during training, is read off these answers."""

import threading
from collections.abc import Generator, Iterator, Sequence

from playground.chat.generate import Prompt, generate_answers
from playground.data.source import Row
from playground.data.template import Template, turns
from playground.eval.metrics import Answer
from playground.memory.meter import is_out_of_memory
from playground.memory.release import release_memory
from playground.model.tokenizer import model_eos_ids
from playground.settings import Generation

SHORTEST, LONGEST = 24, 64  # tokens an answer may have


def answer_token_limit(rows: Sequence[Row], template: Template) -> int:
    """How many tokens an answer may have: as many as the rows' longest needs to be closed, within bounds that keep asking quick."""
    return min(
        LONGEST,
        max([SHORTEST, *(len(answer) for _, answer in template.tokens([row for row in rows if template.asks(row)]))]),
    )


def answerable_rows(rows: Sequence[Row], template: Template, length: int, longest: int | None) -> list[Row]:
    """The rows that can be asked: a text alone is no question, and a prompt that fills `length` tokens isn't taught either.

    longest: the positions that the model has, for prompt and answer together where it has no encoder.
    """
    most = answer_token_limit(rows, template)
    room = length if template.encoder or not longest else min(length, longest - most + 1)
    return [row for row in rows if template.asks(row) and len(prompt_ids(row, template)) < room]


def prompt_ids(row: Row, template: Template) -> list[int]:
    """A row's question as the model is asked it."""
    return template.ids(turns(row), row.system)


def answer_rows(
    model, template: Template, rows: Sequence[Row], sides: Sequence[str], most: int, stop: threading.Event
) -> Generator[dict, None, dict[str, list[Answer]] | None]:
    """Every row's answer, of at most `most` tokens, by side ("base", "tuned"); yields `progress`. None if stopped before the end."""
    prompts, ends, found = (
        [prompt_ids(row, template) for row in rows],
        sorted({*template.end_ids(), *model_eos_ids(model)}),
        {},
    )
    for number, side in enumerate(sides):
        # A side at a time: rows that all answer with or without the adapter need no picking apart in every layer.
        whole = []
        for whole, done in _answered(
            model, template, [Prompt(ids, side == "tuned") for ids in prompts], ends, most, stop
        ):
            yield {
                "kind": "progress",
                "done": round(len(rows) * (number + done) / len(sides), 1),
                "total": len(rows),
                "unit": "rows",
            }
        if stop.is_set():
            return None
        found[side] = [
            Answer(template.answer(text), [token for token in ids if token not in ends], bool(ids) and ids[-1] in ends)
            for text, ids in whole
        ]
    return found


def _answered(
    model, template: Template, asked: Sequence[Prompt], ends: list[int], most: int, stop: threading.Event
) -> Iterator[tuple[list[tuple[str, list[int]]], float]]:
    """The answers that are complete, and the share of the work that is done: all rows at once, or as many as there is memory for."""
    whole, at_once = [], len(asked)
    while len(whole) < len(asked) and not stop.is_set():
        part, event = asked[len(whole) : len(whole) + at_once], None
        try:
            for event in generate_answers(model, template.tokenizer, part, ends, Generation(max_new_tokens=most), stop):
                yield whole, (len(whole) + len(part) * event["tokens"] / most) / len(asked)
        except RuntimeError as error:
            if at_once == 1 or not is_out_of_memory(error):
                raise
            at_once, event = -(-at_once // 2), None
        if event is None:
            release_memory()  # once the error and what its frames held are gone
        else:
            whole = whole + list(zip(event["texts"], event["ids"]))
            yield whole, len(whole) / len(asked)
