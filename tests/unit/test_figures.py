"""What the Plan and Runs tabs draw: every name has words, every number its place, and nothing of a run's is taken for HTML."""

import functools
import re

import pytest

from playground import runs
from playground.i18n import LANGUAGES, table, translate
from playground.planning import forecast
from playground.runs.accuracy import Pair, scores
from playground.settings import Settings
from playground.ui import figures, tables

GIB = 2**30
ENGLISH = functools.partial(translate, "en")


@pytest.fixture(scope="module")
def settings(toy) -> Settings:
    return Settings().with_values(
        {"load": {"model": str(toy()), "bits": 16}, "train": {"batch_size": 2, "max_seq_length": 64}}
    )


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_step_of_the_waterfall_has_words_and_a_verdict(settings, lang):
    steps = forecast.waterfall(settings)
    assert (
        len(steps) >= 6 and [step["step"] for step in steps if f"plan.saving.{step['step']}" not in table(lang)] == []
    )
    room = steps[2]["device_used"] + 1
    drawn = figures.waterfall(functools.partial(translate, lang), steps, room)
    assert drawn.count("<li>") == len(steps) and {"no", "tight"} <= set(re.findall(r'class="verdict (\w+)"', drawn))


def test_every_part_of_a_forecast_is_drawn_and_named(settings):
    found = forecast.forecast(settings, context=64)
    drawn = figures.forecast(ENGLISH, found, 8 * GIB, 6 * GIB)
    for phase in found["phases"].values():
        assert set(phase["parts"]) <= set(figures.PARTS)
        for part in phase["parts"]:
            assert ENGLISH(f"chart.part.{part}") in drawn
    assert drawn.count('class="bar"') == 3 and ENGLISH("plan.verdict.fits") in drawn and ENGLISH("plan.here") in drawn


def test_on_a_cpu_the_program_itself_is_a_part_of_what_is_needed():
    phase = {"parts": {"weights": 3 * GIB, "activations": GIB}, "allocated": 4 * GIB, "rss": 5 * GIB, "need": 5 * GIB}
    assert figures._parts_of(phase)["program"] == GIB


def test_figures_of_a_run_stand_under_their_phase():
    found = [
        Pair("r", "load", "weights", 90, 100),
        Pair("r", "tune", "device_used", 3 * GIB, 2 * GIB),
        Pair("r", "tune", "working", 5, 4),
    ]
    drawn = tables.pairs(ENGLISH, found)
    assert drawn.count('class="group"') == 2 and drawn.index("Load") < drawn.index("weights") < drawn.index(
        "Fine-tune"
    ) < drawn.index("3.00 GiB")
    assert "−10.0%" in drawn and "+50.0%" in drawn


def test_the_record_has_a_row_a_phase_and_the_model_beside_it(tmp_path):
    run = runs.create(tmp_path, "tune", Settings().with_values({"load": {"model": "/x/<b>toy", "bits": 4}}))
    found = [
        Pair(run.id, phase, kind, 2 * GIB, GIB) for phase in ("load", "tune") for kind in ("allocated", "device_used")
    ]
    drawn = tables.record(ENGLISH, found, {summary.id: summary for summary in runs.history(tmp_path)})
    assert drawn.count(run.id) == 2 and drawn.count("+100.0%") == 4 and "reserved" not in drawn
    assert "&lt;b&gt;toy, 4 bits" in drawn and "<b>" not in drawn
    assert tables.scores(ENGLISH, scores(found)).count("+100.0%") == 2


def test_the_history_says_what_each_run_did(tmp_path):
    run = runs.create(tmp_path, "tune", Settings().with_values({"load": {"bits": 4}}))
    run.append(
        "done", job="tune", result={"loss": {"before": 3.0, "after": 1.5}, "recall": {"base": 0.0, "tuned": 0.91}}
    )
    runs.create(tmp_path, "load", Settings())
    drawn = tables.history(ENGLISH, runs.history(tmp_path))
    for text in (
        run.id,
        "SmolLM2 135M Instruct, 4 bits, helpdesk.en",
        "3.000 → 1.500",
        "0% → 91%",
        ENGLISH("state.done"),
        ENGLISH("state.open"),
    ):
        assert text in drawn
