"""Answers to an earlier state of the Data tab's form don't replace those to a later one."""

from types import SimpleNamespace

import gradio as gr
import pytest

from playground.ui import data_answers
from playground.ui.data_listeners import _Steps, _while_latest

SKIPPED = gr.skip()


@pytest.fixture
def steps(monkeypatch):
    """The steps of a tab whose answers name what was asked."""
    monkeypatch.setattr(data_answers, "draw_tokens", lambda page, readable, number, values: (f"row {number}", []))
    monkeypatch.setattr(data_answers, "preview", lambda page, values, choices, fetch: (values[0], True))
    made = _Steps.__new__(_Steps)
    made.page, made.selection, made.previewed = SimpleNamespace(), [], [None] * 5
    return made


def test_answers_are_shown_while_their_selection_is_the_one_that_was_previewed_last():
    latest = {"selection": (1.0, ("a.jsonl", 1))}

    def answers():
        yield ("progress", 1)
        latest["selection"] = (2.0, ("b.jsonl", 1))
        yield ("counts", 2)

    assert list(_while_latest(latest, {"selection": ("a.jsonl", 1)}, answers(), 2)) == [
        ("progress", 1),
        (SKIPPED, SKIPPED),
    ]


def test_without_a_preview_every_answer_is_shown():
    assert list(_while_latest({}, {"selection": ("a.jsonl",)}, [("tokens", [])], 2)) == [("tokens", [])]


def test_an_earlier_row_that_is_answered_last_is_not_drawn_over_the_later_one():
    latest = {"selection": (1.0, ("a.jsonl",)), "row": (2.0, (2, "auto"))}
    earlier, later = ({"selection": ("a.jsonl",), "row": (number, "auto")} for number in (9999, 2))
    assert list(_while_latest(latest, later, [("row 2", [])], 2)) == [("row 2", [])]
    assert list(_while_latest(latest, earlier, [("no row 9999", [])], 2)) == [(SKIPPED, SKIPPED)]


def test_a_row_that_was_asked_for_earlier_but_comes_later_is_not_drawn(steps):
    latest: dict = {}
    assert list(steps._draw(20.0, latest, True, 3)) == [("row 3", [])]
    assert list(steps._draw(10.0, latest, True, 1)) == []
    assert list(steps._draw(20.0, latest, True, 3)) == [("row 3", [])]
    assert list(steps._draw(30.0, latest, True, 1)) == [("row 1", [])]


def test_a_preview_that_was_asked_for_earlier_but_comes_later_changes_nothing(steps):
    preview, *_ = steps.previewing(())
    latest: dict = {}
    assert preview(20.0, latest, True, "b.jsonl")[0] == "b.jsonl"
    assert preview(10.0, latest, True, "a.jsonl") == (SKIPPED,) * 5
    assert latest["selection"] == (20.0, ("b.jsonl",))
