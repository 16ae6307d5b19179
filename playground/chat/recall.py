"""Fact recall: of the held-out questions, how many answers name the fact, base beside tuned."""

import re
import threading
from collections.abc import Generator, Iterator, Sequence

import torch

from playground.chat.pair import Asked, answers
from playground.data.source import Row
from playground.data.template import Template, turns
from playground.model.load import give_back
from playground.settings import Generation

LENGTH = 24  # tokens an answer


def names_fact(answer: str, row: Row) -> bool:
    """Whether an answer holds one of the row's keys, whatever its case; "6:40" isn't in "16:40" nor in "6:405"."""
    found = (rf"(?<![0-9A-Za-z]){re.escape(key)}" + (r"(?![0-9])" if key[-1:].isdigit() else "") for key in row.key)
    return any(re.search(pattern, answer, re.IGNORECASE) for pattern in found)


def recall(model, template: Template, rows: Sequence[Row], stop: threading.Event, sides: Sequence[str] = ("base", "tuned")) -> Generator[dict, None, dict | None]:
    """Ask every row of both sides, greedily; yield `progress`, return {"base", "tuned", "rows"} as shares of 1.

    None if stopped before the end.
    """
    prompts = [template.ids(turns(row), row.system) for row in rows]
    share = {}
    for number, side in enumerate(sides):
        # A side at a time: rows that all answer with or without the adapter need no picking apart in every layer.
        texts = []
        for texts, done in _answered(model, template, [Asked(ids, side == "tuned") for ids in prompts], stop):
            yield {"kind": "progress", "done": round(len(rows) * (number + done) / len(sides), 1), "total": len(rows), "unit": "rows"}
        if stop.is_set():
            return None
        share[side] = round(sum(map(names_fact, texts, rows)) / len(rows), 4)
    return share | {"rows": len(rows)}


def _answered(model, template: Template, asked: Sequence[Asked], stop: threading.Event) -> Iterator[tuple[list[str], float]]:
    """The answers so far and the share of the work that is done: all rows at once, or as many as there is memory for."""
    texts, at_once = [], len(asked)
    while len(texts) < len(asked) and not stop.is_set():
        part, found = asked[len(texts) : len(texts) + at_once], None
        try:
            for found in answers(model, template.tokenizer, part, template.end_ids(), Generation(max_new_tokens=LENGTH), stop):
                yield texts + found["texts"], (len(texts) + len(part) * found["tokens"] / LENGTH) / len(asked)
        except torch.OutOfMemoryError:
            if at_once == 1:
                raise
            at_once, found = -(-at_once // 2), None
        if found is None:
            give_back()  # once the error and what its frames held are gone
        else:
            texts = texts + found["texts"]
