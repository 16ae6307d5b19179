"""Figures and tables of the Plan and Runs tabs: every name has words, every number a place, and all text is escaped."""

import functools
import re

import pytest

from playground import runs
from playground.i18n import LANGUAGES, table, translate
from playground.planning import forecast
from playground.runs.accuracy import Pair, scores
from playground.settings import Settings
from playground.ui import memory_figures, plan_figures, run_tables

GIB = 2**30
ENGLISH = functools.partial(translate, "en")


@pytest.fixture(scope="module")
def settings(toy) -> Settings:
    return Settings().with_values(
        {"load": {"model": str(toy()), "bits": 16}, "train": {"batch_size": 2, "max_seq_length": 64}}
    )


@pytest.mark.slow
@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_step_of_the_waterfall_has_words_and_a_verdict(settings, lang):
    steps = forecast.waterfall(settings)
    assert (
        len(steps) >= 6 and [step["step"] for step in steps if f"plan.saving.{step['step']}" not in table(lang)] == []
    )
    capacity = steps[2]["need"] + 1
    drawn = plan_figures.waterfall(functools.partial(translate, lang), steps, capacity)
    assert drawn.count("<li>") == len(steps) and {"no", "tight"} <= set(re.findall(r'class="verdict (\w+)"', drawn))


@pytest.mark.slow
def test_on_a_cpu_the_waterfall_is_of_main_memory_and_offloads_nothing(settings):
    steps = forecast.waterfall(settings, "cpu")
    assert "offload" not in [step["step"] for step in steps]
    row_by_row = {
        "gradient_checkpointing": "all",
        "max_tokens_per_micro_batch": settings.train.max_seq_length,
    }
    same = settings.with_values(
        {"load": {"model": settings.load.model, "bits": 4}, "train": vars(settings.train) | row_by_row}
    )
    tune = forecast.forecast(same, context=64, device="cpu")["phases"]["tune"]
    assert steps[-1] == {"step": "row_by_row", "need": tune["rss"]}


def test_own_settings_stand_under_the_savings_and_are_compared_with_none():
    steps = [{"step": "bits16_lora", "need": 3 * GIB}, {"step": "bits4_lora", "need": GIB}]
    drawn = plan_figures.waterfall(ENGLISH, [*steps, {"step": "yours", "need": 2 * GIB}], 4 * GIB)
    own = drawn[drawn.index("class=yours") :]
    assert ENGLISH("plan.saving.yours") in own and "2.00 GiB" in own and "+" not in own and "−2.00 GiB" in drawn


def test_headline_is_the_verdict_of_the_phase_that_needs_most():
    phases = {"load": {"need": GIB}, "chat": {"need": 2 * GIB}, "tune": {"need": 3 * GIB}}
    for capacity, verdict in ((4 * GIB, "Fits"), (3 * GIB, "Tight"), (2 * GIB, "Doesn't fit")):
        drawn = memory_figures._headline(ENGLISH, phases, capacity)
        assert f"{verdict.replace(chr(39), '&#x27;')}: fine-tuning needs 3.00 of {capacity // GIB}.00 GiB" in drawn


def test_forecast_draws_and_names_every_part(settings):
    prediction = forecast.forecast(settings, context=64)
    drawn = memory_figures.forecast(ENGLISH, prediction, 8 * GIB, 6 * GIB)
    table = memory_figures.parts_table(ENGLISH, prediction["phases"])
    for phase in prediction["phases"].values():
        assert set(phase["parts"]) <= set(memory_figures.PARTS)
        for part in phase["parts"]:
            assert ENGLISH(f"chart.part.{part}") in drawn and ENGLISH(f"chart.part.{part}") in table
    assert "<b>GiB</b>" in drawn and "auto" not in drawn
    assert ENGLISH("plan.about.auto", bits=16) in memory_figures.forecast(ENGLISH, prediction, GIB, GIB, True)
    assert drawn.count('class="bar"') == 3 and ENGLISH("plan.verdict.fits") in drawn and ENGLISH("plan.here") in drawn


def test_on_a_cpu_the_program_itself_is_a_part_of_the_need():
    phase = {"parts": {"weights": 3 * GIB, "activations": GIB}, "allocated": 4 * GIB, "rss": 5 * GIB, "need": 5 * GIB}
    assert memory_figures._parts_with_program(phase)["program"] == GIB


def test_accuracy_table_groups_figures_by_phase():
    pairs = [
        Pair("r", "load", "weights", 90, 100),
        Pair("r", "tune", "device_used", 3 * GIB, 2 * GIB),
        Pair("r", "tune", "working", 5, 4),
    ]
    drawn = run_tables.accuracy(ENGLISH, pairs)
    assert drawn.count('class="group"') == 2 and drawn.index("Load") < drawn.index("weights") < drawn.index(
        "Fine-tune"
    ) < drawn.index("3.00 GiB")
    assert "−10.0%" in drawn and "+50.0%" in drawn


def test_accuracy_record_has_one_row_per_phase_with_the_runs_name(tmp_path):
    run = runs.create(tmp_path, "tune", Settings().with_values({"load": {"model": "/x/<b>toy", "bits": 4}}))
    pairs = [
        Pair(run.id, phase, kind, 2 * GIB, GIB) for phase in ("load", "tune") for kind in ("allocated", "device_used")
    ]
    drawn = run_tables.record(ENGLISH, pairs, {run.id: "<b>toy · 4 bits"})
    assert drawn.count("toy") == 2 and drawn.count("+100.0%") == 4 and "reserved" not in drawn
    assert "&lt;b&gt;toy · 4 bits" in drawn and "<b>" not in drawn
    assert run_tables.scores(ENGLISH, scores(pairs)).count("+100.0%") == 2
