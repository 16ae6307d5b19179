"""Predicted and measured memory: which figures are paired, with which sign, and which are left out."""

import functools

import pytest

from playground import runs
from playground.i18n import translate
from playground.runs.accuracy import Pair, all_totals, pairs, scores
from playground.settings import Settings
from playground.ui import run_tables

PREDICTED = {
    "kind": "memory_predicted",
    "phase": "tune",
    "parts": {"weights": 90, "activations": 13, "loss": 7, "runtime": 20},
    "allocated": 110,
    "reserved": 130,
    "device_used": 200,
}
MEASURED = {
    "kind": "memory_measured",
    "phase": "tune",
    "peak": {"allocated": 100, "device_used": 250, "rss": 5},
    "parts": {"weights": 100, "optimizer": 3},
}


def test_predicted_and_measured_figures_are_paired_with_a_signed_error():
    result = pairs("r", [PREDICTED, MEASURED])
    assert [(p.phase, p.kind, p.predicted, p.measured) for p in result] == [
        ("tune", "allocated", 110, 100),
        ("tune", "device_used", 200, 250),
        ("tune", "weights", 90, 100),
    ]
    assert [round(p.error, 6) for p in result] == [0.1, -0.2, -0.1]


def test_parts_measured_only_as_a_sum_are_compared_as_a_sum():
    result = pairs("r", [PREDICTED, MEASURED | {"parts": {"weights": 80, "working": 16, "runtime": 150}}])
    assert [(p.kind, p.predicted, p.measured) for p in result[2:]] == [
        ("weights", 90, 80),
        ("runtime", 20, 150),
        ("working", 20, 16),
    ]


def test_on_a_cpu_resident_memory_and_exact_parts_are_compared():
    predicted = {
        "kind": "memory_predicted",
        "phase": "load",
        "parts": {"weights": 90, "activations": 10},
        "allocated": 100,
        "rss": 700,
    }
    measured = {"kind": "memory_measured", "phase": "load", "peak": {"rss": 1000}, "parts": {"weights": 90}}
    assert [(p.kind, p.predicted, p.measured) for p in pairs("r", [predicted, measured])] == [
        ("rss", 700, 1000),
        ("weights", 90, 90),
    ]
    del predicted["rss"]
    assert [p.kind for p in pairs("r", [predicted, measured])] == ["weights"]


def test_a_time_that_was_rounded_to_nothing_is_not_compared():
    predicted = {"kind": "time_predicted", "phase": "load", "unit": "load", "seconds": 0.002}
    found = pairs("r", [predicted, {"kind": "time_measured", "phase": "load", "unit": "load", "seconds": 0.0}])
    assert found == [] and run_tables.accuracy(functools.partial(translate, "en"), found)


def test_each_phase_of_a_run_counts_once_by_its_last_execution():
    load = [PREDICTED | {"phase": "load", "allocated": 1}, MEASURED | {"phase": "load", "peak": {"allocated": 1}}]
    chat = [
        PREDICTED | {"phase": "chat"},
        MEASURED | {"phase": "chat"},
        PREDICTED | {"phase": "chat", "allocated": 90},
        MEASURED | {"phase": "chat"},
    ]
    allocated = [(p.phase, p.predicted) for p in pairs("r", [*load, *chat]) if p.kind == "allocated"]
    assert allocated == [("load", 1), ("chat", 90)]


@pytest.mark.parametrize(
    "events",
    [
        [],
        [PREDICTED],
        [MEASURED],
        [PREDICTED, MEASURED | {"phase": "chat"}],
        [PREDICTED, {"kind": "error", "job": "tune"}],
        [PREDICTED, MEASURED | {"peak": {"allocated": 0}, "parts": {}}],
    ],
)
def test_a_figure_that_was_only_predicted_or_only_measured_is_left_out(events):
    assert pairs("r", events) == []


def test_totals_of_all_runs_include_a_new_measurement(tmp_path):
    for job in ("load", "tune"):
        run = runs.create(tmp_path, job, Settings())
        run.append(**PREDICTED | {"phase": job})
    assert all_totals(tmp_path) == []
    run.append(**MEASURED)
    assert {(p.run, p.kind) for p in all_totals(tmp_path)} == {(run.id, "allocated"), (run.id, "device_used")}


def test_a_score_is_the_median_size_and_the_signed_worst_error():
    errors = [Pair("r", "load", "device_used", predicted, 100) for predicted in (101, 104, 90)] + [
        Pair("r", "load", "rss", 80, 100)
    ]
    device, rss = scores(errors)
    assert (device.kind, device.count, round(device.median, 6), round(device.worst, 6)) == (
        "device_used",
        3,
        0.04,
        -0.1,
    )
    assert (rss.count, round(rss.median, 6), round(rss.worst, 6)) == (1, 0.2, -0.2)


def test_seconds_of_a_step_stand_beside_each_other_where_both_are_recorded():
    predicted = {"kind": "time_predicted", "phase": "tune", "unit": "step", "seconds": 0.5, "source": "measured"}
    measured = {"kind": "time_measured", "phase": "tune", "unit": "step", "seconds": 0.4}
    *_, time = pairs("r", [PREDICTED, predicted, MEASURED, measured])
    assert (time.phase, time.kind, time.predicted, time.measured) == ("tune", "step", 0.5, 0.4)
    assert round(time.error, 6) == 0.25
    assert all(pair.kind != "step" for events in ([predicted], [measured]) for pair in pairs("r", events))
    for lang, text in (("en", "0.50 s"), ("ja", "0.50 秒")):
        assert text in run_tables.accuracy(functools.partial(translate, lang), [time])
