"""Answers to rows: end tokens, token limits, and smaller batches when memory runs out."""

import threading

import pytest
import torch
from toys import make_model, make_tokenizer

from playground.data.source import Row
from playground.data.template import Template, Turn
from playground.eval.answer_rows import MAX_TOKENS, MIN_TOKENS, answer_rows, answer_token_limit, answerable_rows

ROWS = [Row(instruction=f"What is the answer to question {n}?", output="The answer is blue.") for n in range(5)]


@pytest.fixture
def template():
    return Template("alpaca", make_tokenizer(False))


def answer(model, template, stop=None, rows=ROWS):
    """The base answers of at most six tokens, and the numbers of rows done by the progress events."""
    events, progress = answer_rows(model, template, rows, ("base",), 6, stop or threading.Event()), []
    while True:
        try:
            progress.append(next(events)["done"])
        except StopIteration as end:
            return end.value, progress


@pytest.fixture
def limit_memory(monkeypatch):
    """`limit_memory(model, max_rows, error)`: larger batches raise `error`; returns the batch sizes that are tried."""

    def limit(model, max_rows: int, error: RuntimeError) -> list[int]:
        generate, tried = model.generate, []

        def limited_generate(input_ids, **kwargs):
            tried.append(len(input_ids))
            if len(input_ids) > max_rows:
                raise error
            return generate(input_ids=input_ids, **kwargs)

        monkeypatch.setattr(model, "generate", limited_generate)
        return tried

    return limit


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_batches_are_halved_until_they_fit_in_memory(template, limit_memory, error):
    model, stop = make_model("llama"), threading.Event()
    expected, progress = answer(model, template)
    assert len(expected["base"]) == 5 and progress == sorted(progress) and progress[-1] == 5
    tried = limit_memory(model, 2, error)
    answers, progress = answer(model, template, stop)
    assert answers == expected and tried == [5, 3, 2, 2, 1]
    assert progress == sorted(progress) and progress[-1] == 5
    assert not stop.is_set()  # running out of memory isn't a stop


def test_out_of_memory_for_one_row_and_other_errors_are_raised(template, limit_memory):
    for error, max_rows in (
        (torch.OutOfMemoryError("CUDA out of memory"), 0),
        (RuntimeError("shapes do not match"), 2),
    ):
        model = make_model("llama")
        limit_memory(model, max_rows, error)
        with pytest.raises(type(error)) as caught:
            answer(model, template)
        assert caught.value is error


def test_stop_ends_before_the_first_answer(template):
    stop = threading.Event()
    stop.set()
    assert answer(make_model("llama"), template, stop) == (None, [])


def test_an_answer_is_closed_only_by_an_end_token(template):
    """With a head that only writes one token, the end token closes an empty answer and any other fills the limit."""
    model = make_model("llama")
    for token, closed, written in ((template.tokenizer.eos_token_id, True, []), (65, False, [65] * 6)):
        model.lm_head.forward = lambda hidden, token=token: torch.nn.functional.one_hot(
            torch.full(hidden.shape[:-1], token), 336
        ).float()
        answers, _ = answer(model, template)
        assert {(a.closed, tuple(a.tokens)) for a in answers["base"]} == {(closed, tuple(written))}
        assert (answers["base"][0].text == "") is closed


def test_the_token_limit_fits_the_longest_reference_within_bounds(template):
    [(_, reference)] = template.tokens([Row("?", "word " * 8)])
    tokens = len(reference)
    assert MIN_TOKENS < tokens < MAX_TOKENS and answer_token_limit([Row("?", "word " * 8), *ROWS], template) == tokens
    assert answer_token_limit([Row("?", "a")], template) == MIN_TOKENS == answer_token_limit([], template)
    assert answer_token_limit([Row("?", "word " * 500)], template) == MAX_TOKENS


def test_text_alone_and_too_long_prompts_are_not_answerable(template):
    long = Row("word " * 200, "yes")
    assert answerable_rows([*ROWS, Row("", "a text"), long], template, 400, None) == ROWS
    size = max(len(template.ids([Turn(row.instruction)])) for row in ROWS)
    assert answerable_rows(ROWS, template, 400, size + MIN_TOKENS) == ROWS
    assert answerable_rows(ROWS, template, 400, size + MIN_TOKENS - 1) != ROWS
