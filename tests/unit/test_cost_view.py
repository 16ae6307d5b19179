"""The drawing of a cutoff's cost: a bar for every length, and every figure in words, in both languages."""

import functools

import pytest
from toy_rows import write_numbered_rows

from playground.i18n import LANGUAGES, translate
from playground.planning import rows as row_questions
from playground.predict.seconds import known_peak_rates
from playground.settings import Settings
from playground.ui import cost_view

GIB = 2**30
HISTOGRAM = {"width": 5, "counts": [1], "over": [0], "open": False, "longest": 1, "median": 1.0, "mean": 1.0}
COST = {
    "rows": 1,
    "counted": 1,
    "histogram": HISTOGRAM,
    "kept": 1,
    "left_out": 0,
    "truncated": 0,
    "lost_share": 0.0,
    "tokens": 90,
    "trained": 50,
    "uncut": 90,
    "cutoff": 40,
    "padding": {"tokens": 90, "padded": 100, "saved": 0.1},
    "steps": 1,
    "epochs": 1.0,
    "memory": None,
    "trouble": None,
    "estimates": [],
    "measured": None,
}


def page(cost: dict, lang: str) -> str:
    return cost_view.draw(functools.partial(translate, lang), lang, cost)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_length_has_a_bar_and_longer_rows_are_marked(toy, tmp_path, lang):
    file = write_numbered_rows(tmp_path / "rows.jsonl")
    settings = Settings().with_values(
        {
            "load": {"model": str(toy(chat=True)), "bits": 16},
            "data": {"source": str(file), "held_out": 0.0},
            "train": {"batch_size": 4},
        }
    )
    cost = row_questions.cutoff_cost(settings, cutoff=60, capacity=8 * GIB, card="rtx-4090")
    text, bars = page(cost, lang), cost["histogram"]
    within = sum(count > over for count, over in zip(bars["counts"], bars["over"]))
    assert text.count('<rect class="over"') == sum(map(bool, bars["over"])) > 0
    assert text.count('<rect class="within"') == within > 0
    assert translate(lang, "cost.cutoff", cutoff="60") in text and translate(lang, "plan.verdict.fits") in text
    assert text.count("<li>") >= 6 and f"{cost['truncated'] / 120:.1%}" in text
    assert all(peak["name"] in text for peak in known_peak_rates("rtx-4090"))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_sample_is_labelled_as_one(lang):
    assert translate(lang, "cost.sample", counted="30", rows="120") in page(COST | {"counted": 30, "rows": 120}, lang)


def test_without_an_estimate_the_page_says_that_time_is_not_predicted():
    memory = {"bytes": GIB, "capacity": 0, "verdict": None, "checkpointing": "off", "budget": 0, "batching": "padded"}
    assert translate("en", "cost.no_time") in page(COST | {"memory": memory | {"tokens": 9, "rows": 1}}, "en")


def test_a_measured_speed_is_labelled_as_measured():
    measured = {"run": "r", "tokens_per_s": 50.0, "seconds": 5.4}
    assert "50 tokens/s measured in run" in page(COST | {"measured": measured}, "en")


@pytest.mark.parametrize("lang", LANGUAGES)
def test_an_error_is_shown_with_the_counts(lang):
    trouble = {"problems": [{"key": "error.length", "values": {"length": 600, "longest": 512}}]}
    assert "600" in page(COST | {"trouble": trouble}, lang)
