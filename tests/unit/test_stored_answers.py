"""The stored answers that the Plan tab opens with are of its first questions, and those that are predicted."""

import json

import gradio as gr
import pytest
from pages import page_over

from playground import catalog
from playground.planning import largest
from playground.planning.build_answers import questions
from playground.planning.client import STORED_ANSWERS, Planner
from playground.planning.process import answer
from playground.ui import load_tab, plan_tab

RENEW = "run `python -m playground.planning.build_answers`"
NO_PROCESS = ("false",)  # a planner that can't ask anything


def stored(do: str) -> dict | list:
    entries = json.loads(STORED_ANSWERS.read_text(encoding="utf-8"))
    return next(entry["answer"] for entry in entries if entry["id"] == do)


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_plan_tab_opens_with_a_drawn_plan_before_anything_was_asked(tmp_path, lang):
    page = page_over(tmp_path, lang, planner=Planner(tmp_path, NO_PROCESS))
    with gr.Blocks():
        tab = plan_tab.build(page)
    inputs = plan_tab.parse_inputs(page, tab, [component.value for component in tab.inputs])
    asked = inputs.questions()
    assert {do: asked[do] for do in questions()} == questions(), RENEW
    for do in questions():
        assert page.planner.stored_answer(do, **asked[do]) is not None, RENEW
    result = tab.result
    assert 'class="bar"' in result.forecast.value and "<table" in result.details.value
    assert "<li>" in result.waterfall.value and "<table" in result.largest_models.value


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_plan_tab_offers_the_kinds_of_the_form_at_their_width(tmp_path, lang):
    page = page_over(tmp_path, lang, planner=Planner(tmp_path, NO_PROCESS))
    with gr.Blocks():
        form, fields = load_tab.build(page), plan_tab.build(page).fields
    for width, name in plan_tab.QUANT_TYPE_FIELDS.items():
        field = fields["load", name]
        assert field.choices == page.fields["load", name].choices and len(field.choices) > 2
        assert field.visible == (fields["load", "bits"].value == width)
    assert form.bits.value not in plan_tab.QUANT_TYPE_FIELDS and not form.quant_type_8bit.visible


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_stored_forecast_is_the_one_predicted():
    """Versions of libraries differ by up to 2 %."""
    before, now = stored("forecast"), answer("forecast", questions()["forecast"], lambda event: None)
    assert set(before) == set(now), RENEW
    for phase, prediction in now["phases"].items():
        assert before["phases"][phase]["need"] == pytest.approx(prediction["need"], rel=0.02), RENEW
    assert before["parameters"] == now["parameters"] and before["trainable"] == now["trainable"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_stored_savings_are_those_predicted():
    before, now = stored("waterfall"), answer("waterfall", questions()["waterfall"], lambda event: None)
    assert [step["step"] for step in before] == [step["step"] for step in now], RENEW
    assert [step["need"] for step in before] == pytest.approx([step["need"] for step in now], rel=0.02), RENEW


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("card", "bits"), [("rtx-2060", 4), ("rtx-4090", 8)])
def test_stored_largest_models_need_what_is_predicted(card, bits):
    row = next(row for row in stored("largest_models") if (row["card"], row["bits"]) == (card, bits))
    for job in ("chat", "tune"):
        need = largest.required_memory(row[job]["id"], bits, job, **questions()["largest_models"])
        assert row[job]["need"] == pytest.approx(need, rel=0.02), RENEW


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_stored_setups_need_what_is_predicted():
    row = next(row for row in stored("largest_for_setups") if row["setup"] == "8x-a100-40" and row["bits"] == 8)
    length = questions()["largest_for_setups"]["length"]
    need = largest.required_memory(row["tune"]["id"], 8, "tune", length=length, gpus=8)
    assert row["tune"]["need"] == pytest.approx(need, rel=0.02), RENEW


def test_largest_models_at_4_bits_need_what_the_list_of_models_says():
    for row in stored("largest_models"):
        for job in ("chat", "tune"):
            requirement = catalog.requirements().get(row[job]["id"]) if row[job] and row["bits"] == 4 else None
            if requirement:
                assert requirement["cuda"][job] == pytest.approx(row[job]["need"], rel=0.02), RENEW
