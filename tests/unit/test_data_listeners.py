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

    assert list(_while_latest(latest, ("a.jsonl", 1), answers(), 2)) == [("progress", 1), (SKIPPED, SKIPPED)]


def test_without_a_preview_every_answer_is_shown():
    assert list(_while_latest({}, ("a.jsonl",), [("tokens", [])], 2)) == [("tokens", [])]
