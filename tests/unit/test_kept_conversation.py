"""A conversation that the browser kept comes back in the language of the page, and nothing else that it sends does."""

import json
from types import SimpleNamespace

import pytest

from playground import runs
from playground.i18n import translate
from playground.settings import Settings
from playground.ui.comparison import Answer, Turn, comparison_html, kept_text
from playground.ui.conversation import MAX_TURNS, read_conversation

KNOWN = "How do I connect my phone to the internet?"  # a held-out question of helpdesk.en


@pytest.fixture
def page(tmp_path):
    return SimpleNamespace(root=tmp_path, lang="ja", private=True)


def test_turns_come_back_with_names_and_measured_in_the_pages_language(page):
    run = runs.create(page.root, "tune", Settings().with_values({"data": {"source": "helpdesk.en"}}))
    answers = {"base": Answer("No.", "end", 2, 3.5), "tuned": Answer("otterlamp58", "limit", 4, 7.0)}
    asked = Turn(KNOWN, answers, run.id, "the name in English", measured="chat.measured_together")
    (turn,) = read_conversation(page, kept_text([asked, Turn("Cleared?", answers, dropped=True)]))
    assert (turn.question, turn.answers, turn.adapter) == (KNOWN, answers, run.id)
    assert "案内所" in turn.adapter_name
    assert "otterlamp58" in turn.learned and "otterlamp58" in turn.expected
    assert translate("ja", "chat.measured_together") in comparison_html("ja", [turn], run.id)


def test_a_turn_whose_run_is_gone_keeps_its_name_and_an_answer_under_way_is_not_finished(page):
    asked = Turn("Why?", {"base": Answer("Half an ans")}, "20260101-000000-tune", "its name")
    (turn,) = read_conversation(page, kept_text([asked]))
    assert (turn.adapter_name, turn.answers["base"].finish) == ("its name", "stopped")
    assert translate("ja", "chat.unfinished") in comparison_html("ja", [turn], "")
    assert "–" not in comparison_html("ja", [turn], "")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "3", "null", "[" * 5000, '[3, null, "x", []]', '[{"question": "?"}]'),
        '[{"question": 3, "answers": {"base": {"text": "x"}}, "adapter": "", "adapter_name": ""}]',
        '[{"question": "?", "answers": {"base": {"text": 3}, "x": {"text": "x"}}, "adapter": "", "adapter_name": ""}]',
        '[{"question": "?", "answers": {"base": {"text": "x"}}, "adapter": null, "adapter_name": ""}]',
    ],
)
def test_anything_else_is_no_conversation(page, text):
    assert read_conversation(page, text) == []


def test_wrong_numbers_and_keys_are_left_out_and_texts_stay_escaped(page):
    value = {"text": "<img src=x>", "finish": "later", "tokens": 1e300, "tokens_per_s": float("nan")}
    kept = {"question": "<img src=x>", "answers": {"base": value}, "adapter": "../..", "adapter_name": "<img src=x>"}
    (turn,) = read_conversation(page, json.dumps([kept | {"measured": "app.title"}]))
    assert turn.answers["base"] == Answer("<img src=x>", "stopped") and turn.measured == ""
    assert "<img" not in comparison_html("ja", [turn], "another")
    assert len(read_conversation(page, json.dumps([kept] * (MAX_TURNS + 1)))) == MAX_TURNS
