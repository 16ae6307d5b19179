"""The comparison as HTML: columns, how answers ended, adapters that changed, and escaped texts; names of runs."""

import time

from playground import runs
from playground.i18n import translate
from playground.settings import Settings
from playground.ui.comparison import Answer, Turn, comparison_html, heads_html, history
from playground.ui.run_names import adapter_name

HOSTILE = "<img src=x onerror=alert(1)>"


def turn(question: str = "Sky?", adapter: str = "a", **answers: Answer) -> Turn:
    return Turn(question, answers or {"base": Answer("Grey"), "tuned": Answer("Blue")}, adapter, f"adapter {adapter}")


def test_an_answer_says_where_it_was_cut_and_how_fast_it_was():
    ended, cut, stopped = Answer("a", "end", 7, 3.5), Answer("b", "limit", 512, 9.25), Answer("c", "stopped", 3, 1.0)
    shown = comparison_html("en", [turn(base=cut, tuned=ended), turn(base=stopped)], "a")
    assert shown.count(translate("en", "chat.cut", tokens=512)) == 1
    assert shown.count(translate("en", "chat.stopped", tokens=3)) == 1
    for answer in (ended, cut, stopped):
        assert translate("en", "chat.speed", tokens=answer.tokens, tokens_per_s=answer.tokens_per_s) in shown


def test_an_answer_without_a_word_is_said_to_be_one_only_once_it_has_ended():
    assert translate("ja", "chat.silent") in comparison_html("ja", [turn(base=Answer("", "end"))])
    assert translate("ja", "chat.silent") not in comparison_html("ja", [turn(base=Answer(""))], busy=True)


def test_all_texts_are_escaped():
    hostile = turn(HOSTILE, base=Answer(HOSTILE, "end"), tuned=Answer(HOSTILE))
    hostile.adapter_name = hostile.expected = hostile.status = HOSTILE
    shown = comparison_html("en", [hostile], "another") + heads_html("en", {"base": HOSTILE, "tuned": HOSTILE})
    assert "<img" not in shown and shown.count("&lt;img") >= 7


def test_columns_follow_the_service():
    assert comparison_html("en", [turn()], "a").count("<section") == 2
    assert comparison_html("en", [turn()], "a", has_service=True).count("<section") == 3
    with_service = turn(base=Answer("a"), service=Answer("b"))
    shown = comparison_html("en", [turn(), with_service], "a")
    assert shown.count("<section") == 6 and shown.count("absent") == 2


def test_adapters_are_named_between_turns_where_they_changed():
    assert "switch" not in comparison_html("en", [turn(), turn()], "a")
    changed = comparison_html("en", [turn(), turn(adapter="b"), turn(adapter="b")], "b")
    assert changed.count('class="switch"') == 2 and "adapter a" in changed and "adapter b" in changed


def test_an_adapter_is_not_told_what_another_one_answered():
    turns = [turn("1"), turn("2", adapter="b"), turn("3", "b", base=Answer("Grey"))]
    assert history(turns, "tuned", "b") == [("2", "Blue")]
    assert [question for question, _ in history(turns, "base", "b")] == ["1", "2", "3"]


def test_a_cleared_turn_that_a_late_update_brought_back_is_neither_shown_nor_sent():
    """As it happens where the last update of an answer arrives after the click on Clear."""
    cleared = Turn("Old?", {"base": Answer("Yes.", "end")}, dropped=True)
    assert comparison_html("en", [cleared]) == comparison_html("en", [])
    asked = Turn("New?", {"base": Answer("No.", "end")})
    assert comparison_html("en", [cleared, asked]) == comparison_html("en", [asked])
    assert history([cleared, asked], "base", "") == [("New?", "No.")]


def test_expected_answer_is_shown_with_what_it_adds_marked():
    known = turn(tuned=Answer("It is otterlamp58."))
    known.expected, known.learned = "The password is otterlamp58.", frozenset({"otterlamp58"})
    assert comparison_html("en", [known], "a").count("<mark>otterlamp58</mark>") == 2
    assert translate("en", "chat.expected") not in comparison_html("en", [known], "a", busy=True)


def test_a_runs_name_says_model_data_date_and_what_came_of_it(tmp_path):
    settings = Settings().with_values({"load": {"bits": 16}})
    run = runs.create(tmp_path, "tune", settings)
    day = time.localtime(run.began()).tm_mday
    name = adapter_name("en", runs.summary(tmp_path, run.id))
    assert name.startswith("SmolLM2") and "16 bits" in name and f" {day}, " in name and run.id not in name
    run.append("done", job="tune", result={"loss": {"before": 3.0, "after": 1.25}})
    assert "1.25" in adapter_name("en", runs.summary(tmp_path, run.id))
    run.append("done", job="tune", result={"recall": {"base": 0.0, "tuned": 0.91, "rows": 45}})
    assert "91%" in adapter_name("ja", runs.summary(tmp_path, run.id))
