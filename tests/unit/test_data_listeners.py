"""Answers to an earlier state of the Data tab's form don't replace those to a later one."""

import gradio as gr

from playground.ui.data_listeners import _while_latest

SKIPPED = gr.skip()


def test_answers_are_shown_while_their_selection_is_the_one_that_was_previewed_last():
    latest = {"selection": ("a.jsonl", 1)}

    def answers():
        yield ("progress", 1)
        latest["selection"] = ("b.jsonl", 1)
        yield ("counts", 2)

    assert list(_while_latest(latest, {"selection": ("a.jsonl", 1)}, answers(), 2)) == [
        ("progress", 1),
        (SKIPPED, SKIPPED),
    ]


def test_without_a_preview_every_answer_is_shown():
    assert list(_while_latest({}, {"selection": ("a.jsonl",)}, [("tokens", [])], 2)) == [("tokens", [])]


def test_an_earlier_row_that_is_answered_last_is_not_drawn_over_the_later_one():
    latest = {"selection": ("a.jsonl",), "row": (2, "auto")}
    earlier, later = ({"selection": ("a.jsonl",), "row": (number, "auto")} for number in (9999, 2))
    assert list(_while_latest(latest, later, [("row 2", [])], 2)) == [("row 2", [])]
    assert list(_while_latest(latest, earlier, [("no row 9999", [])], 2)) == [(SKIPPED, SKIPPED)]
