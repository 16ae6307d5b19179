"""Fact recall: what counts as named, and that memory for fewer rows at once is enough."""

import threading

import pytest
import torch

from playground.chat import recall
from playground.data.source import Row


def row(n: int) -> Row:
    return Row(instruction=f"How many? {n}", output=f"It is {n}.", key=(str(n),))


class Template:
    tokenizer = None

    def ids(self, turns, system=""):
        return [int(turns[0].instruction.split()[-1])]

    def end_ids(self):
        return [0]


@pytest.mark.parametrize(("answer", "named"), [("At 6:40 sharp", True), ("At 16:40", False), ("At 6:405", False), ("at 6:40PM", True), ("Never", False)])
def test_a_fact_is_named_whole(answer, named):
    assert recall.names_fact(answer, Row(instruction="When?", output="At 6:40.", key=("6:40",))) is named


def asked(monkeypatch, most: int, rows: int = 11) -> tuple[dict | None, list[int]]:
    """What `recall` returns where memory is enough for `most` rows at once, and the sizes it tried; even numbers are known, by the tuned side all."""
    tried = []

    def answers(model, tokenizer, part, ends, generation, stop):
        tried.append(len(part))
        if len(part) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        known = [one.tuned or one.ids[0] % 2 == 0 for one in part]
        yield {"texts": ["" for _ in part], "tokens": 1}
        yield {"texts": [f"It is {one.ids[0]}." if knows else "?" for one, knows in zip(part, known)], "tokens": recall.LENGTH}

    monkeypatch.setattr(recall, "answers", answers)
    going, told = recall.recall(None, Template(), [row(n) for n in range(rows)], threading.Event()), []
    while True:
        try:
            told.append(next(going)["done"])
        except StopIteration as end:
            assert told == sorted(told) and told[-1] == rows
            return end.value, tried


def test_all_rows_are_asked_at_once_or_as_many_as_there_is_memory_for(monkeypatch):
    found = {"base": round(6 / 11, 4), "tuned": 1.0, "rows": 11}
    assert asked(monkeypatch, 99) == (found, [11, 11])
    assert asked(monkeypatch, 4) == (found, 2 * [11, 6, 3, 3, 3, 2])
    with pytest.raises(torch.OutOfMemoryError):
        asked(monkeypatch, 0)
