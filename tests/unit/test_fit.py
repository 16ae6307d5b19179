"""Rows longer than the maximum length: recent turns are kept, cut answers and omitted rows are counted separately."""

import pytest
from toys import make_tokenizer

from playground.data.batch import encode
from playground.data.fit import fit_turns
from playground.data.lengths import count_tokens, cutoff_effect
from playground.data.row import Row
from playground.data.template import Template
from playground.engine.training_set import _length_notes
from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES, translate

TURNS = tuple((f"question {n} " * (n % 3 + 1), f"answer {n} " * (n % 4 + 1)) for n in range(12))
LONG = Row("last question", "last answer", before=TURNS, system="be kind", number=1)
SHORT = Row("q", "a", number=2)


def _template(kind: str) -> Template:
    return Template(kind, make_tokenizer(kind == "chat"))


def _size(row: Row, template: Template) -> int:
    [(prompt, answer)] = template.tokens([row])
    return len(prompt) + len(answer)


@pytest.mark.parametrize("kind", ["chat", "talk", "alpaca"])
@pytest.mark.parametrize("kept", [0, 1, 5, 11])
def test_the_most_recent_turns_that_fit_are_kept(kind, kept):
    template = _template(kind)
    exact = _size(LONG.with_recent_turns(kept), template)
    for length in (exact, exact + 1):
        rows, shortened = fit_turns([SHORT, LONG, SHORT], template, length)
        assert rows == [SHORT, LONG.with_recent_turns(kept), SHORT] and shortened == 1
        assert rows[1].before == TURNS[len(TURNS) - kept :] and rows[1].system == "be kind"
        examples, truncated = encode(rows[1:2], template, length)
        assert len(examples) == 1 and truncated == 0
    assert fit_turns([LONG], template, _size(LONG, template)) == ([LONG], 0)


def test_answers_that_are_cut_and_rows_left_out_are_told_apart():
    template = _template("talk")
    rows = [LONG, Row("q", "long answer " * 40), Row("long question " * 40, "a"), SHORT]
    length = _size(LONG.with_recent_turns(3), template)
    fitted, shortened = fit_turns(rows, template, length)
    examples, truncated = encode(fitted, template, length)
    left_out = len(rows) - len(examples)
    assert (shortened, left_out, truncated - left_out) == (1, 1, 1)
    effect = cutoff_effect(count_tokens(rows, template), length)
    assert (effect["shortened"], effect["left_out"], effect["truncated"]) == (1, 1, 1)
    assert effect["tokens"] >= sum(len(example.ids) for example in examples)  # whole turns are left out
    notes = _length_notes(1, 2, 3, 4, length)
    names = ("turns_left_out", "answers_cut", "too_long", "held_out_too_long")
    assert [note["key"] for note in notes] == [f"note.{name}" for name in names]
    assert [note["values"]["count"] for note in notes] == [3, 1, 2, 4] and _length_notes(0, 0, 0, 0, 8) == []
    assert all(str(length) in translate(lang, note["key"], **note["values"]) for note in notes for lang in LANGUAGES)


@pytest.mark.parametrize("length", [8, 30, 60, 100, 400])
def test_the_cost_of_a_cutoff_counts_conversations_as_they_are_fitted(length):
    template = _template("talk")
    rows = [Row(f"q {n}", f"a {n}", before=TURNS[: n % 12]) for n in range(40)]
    fitted, _ = fit_turns(rows, template, length)
    try:
        examples, truncated = encode(fitted, template, length)
    except PlaygroundError:  # all are too long
        examples, truncated = [], len(rows)
    effect = cutoff_effect(count_tokens(rows, template), length)
    assert effect["kept"] == len(examples) and effect["left_out"] + effect["truncated"] == truncated
    kept = {(row.number, row.instruction): row for row in fitted}
    assert effect["shortened"] <= sum(len(kept[row.number, row.instruction].before) < len(row.before) for row in rows)
