"""Rows are asked: what counts as closed, and that memory for fewer rows at once is enough."""

import threading

import pytest
import torch
from toys import make_model, make_tokenizer

from playground.data.source import Row
from playground.data.template import Template
from playground.eval.answer_rows import LONGEST, SHORTEST, answer_rows, answer_token_limit, answerable_rows

ROWS = [Row(instruction=f"What is the answer to question {n}?", output="The answer is blue.") for n in range(5)]


@pytest.fixture
def template():
    return Template("alpaca", make_tokenizer(False))


def asked(model, template, stop=None, most=6, rows=ROWS):
    """What `ask` returns of the base side, and the rows that it told of on the way."""
    going, told = answer_rows(model, template, rows, ("base",), most, stop or threading.Event()), []
    while True:
        try:
            told.append(next(going)["done"])
        except StopIteration as end:
            return end.value, told


@pytest.fixture
def tight(monkeypatch):
    """`tight(model, most, error)`: from now on there is memory for so many rows at once; returns the sizes that are tried."""

    def fits(model, most: int, error: RuntimeError) -> list[int]:
        generate, tried = model.generate, []

        def generated(input_ids, **kwargs):
            tried.append(len(input_ids))
            if len(input_ids) > most:
                raise error
            return generate(input_ids=input_ids, **kwargs)

        monkeypatch.setattr(model, "generate", generated)
        return tried

    return fits


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_rows_are_asked_at_once_or_as_many_as_there_is_memory_for(template, tight, error):
    model, stop = make_model("llama"), threading.Event()
    whole, told = asked(model, template)
    assert len(whole["base"]) == 5 and told == sorted(told) and told[-1] == 5
    tried = tight(model, 2, error)
    found, told = asked(model, template, stop)
    assert found == whole and tried == [5, 3, 2, 2, 1] and told == sorted(told) and told[-1] == 5
    assert not stop.is_set()  # nobody pressed Stop


def test_memory_that_is_not_enough_for_one_row_is_an_error_and_so_is_any_other(template, tight):
    for error, most in ((torch.OutOfMemoryError("CUDA out of memory"), 0), (RuntimeError("shapes do not match"), 2)):
        model = make_model("llama")
        tight(model, most, error)
        with pytest.raises(type(error)) as told:
            asked(model, template)
        assert told.value is error


def test_stop_ends_the_asking(template):
    stop = threading.Event()
    stop.set()
    assert asked(make_model("llama"), template, stop) == (None, [])


def test_an_answer_is_closed_by_its_end_alone(template):
    """A head that knows one token only: the end closes an empty answer, any other fills the limit."""
    model = make_model("llama")
    for token, closed, written in ((template.tokenizer.eos_token_id, True, []), (65, False, [65] * 6)):
        model.lm_head.forward = lambda hidden, token=token: torch.nn.functional.one_hot(
            torch.full(hidden.shape[:-1], token), 336
        ).float()
        found, _ = asked(model, template)
        assert {(answer.closed, tuple(answer.tokens)) for answer in found["base"]} == {(closed, tuple(written))}
        assert (found["base"][0].text == "") is closed


def test_the_limit_is_what_the_longest_reference_needs_within_bounds(template):
    [(_, answer)] = template.tokens([Row("?", "word " * 8)])
    tokens = len(answer)
    assert SHORTEST < tokens < LONGEST and answer_token_limit([Row("?", "word " * 8), *ROWS], template) == tokens
    assert (
        answer_token_limit([Row("?", "a")], template) == SHORTEST == answer_token_limit([], template)
        and answer_token_limit([Row("?", "word " * 500)], template) == LONGEST
    )


def test_texts_alone_and_prompts_that_leave_no_room_are_not_asked(template):
    long = Row("word " * 200, "yes")
    assert answerable_rows([*ROWS, Row("", "a text"), long], template, 400, None) == ROWS
    size = max(len(template.ids([_turn(row)])) for row in ROWS)
    assert (
        answerable_rows(ROWS, template, 400, size + SHORTEST) == ROWS
        and answerable_rows(ROWS, template, 400, size + SHORTEST - 1) != ROWS
    )


def _turn(row):
    from playground.data.template import Turn

    return Turn(row.instruction)
