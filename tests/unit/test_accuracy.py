"""Predictions beside measurements: which figures are paired, with which sign, and what is left out."""

import pytest

from playground import runs
from playground.runs.accuracy import Pair, pairs, record, scores
from playground.settings import Settings

SAID = {
    "kind": "memory_predicted",
    "phase": "tune",
    "parts": {"weights": 90, "activations": 13, "loss": 7, "runtime": 20},
    "allocated": 110,
    "reserved": 130,
    "device_used": 200,
}
FOUND = {
    "kind": "memory_measured",
    "phase": "tune",
    "peak": {"allocated": 100, "device_used": 250, "rss": 5},
    "parts": {"weights": 100, "optimizer": 3},
}


def test_what_was_predicted_and_measured_is_paired_with_a_signed_error():
    found = pairs("r", [SAID, FOUND])
    assert [(p.phase, p.kind, p.predicted, p.measured) for p in found] == [
        ("tune", "allocated", 110, 100),
        ("tune", "device_used", 200, 250),
        ("tune", "weights", 90, 100),
    ]
    assert [round(p.error, 6) for p in found] == [0.1, -0.2, -0.1]


def test_what_is_measured_only_as_a_sum_is_compared_as_one():
    found = pairs("r", [SAID, FOUND | {"parts": {"weights": 80, "working": 16, "runtime": 150}}])
    assert [(p.kind, p.predicted, p.measured) for p in found[2:]] == [
        ("weights", 90, 80),
        ("runtime", 20, 150),
        ("working", 20, 16),
    ]


def test_on_a_cpu_resident_memory_and_the_exact_parts_are_compared():
    said = {
        "kind": "memory_predicted",
        "phase": "load",
        "parts": {"weights": 90, "activations": 10},
        "allocated": 100,
        "rss": 700,
    }
    found = {"kind": "memory_measured", "phase": "load", "peak": {"rss": 1000}, "parts": {"weights": 90}}
    assert [(p.kind, p.predicted, p.measured) for p in pairs("r", [said, found])] == [
        ("rss", 700, 1000),
        ("weights", 90, 90),
    ]
    del said["rss"]
    assert [p.kind for p in pairs("r", [said, found])] == ["weights"]


def test_each_phase_of_a_run_counts_once_as_it_was_done_last():
    load = [SAID | {"phase": "load", "allocated": 1}, FOUND | {"phase": "load", "peak": {"allocated": 1}}]
    chat = [
        SAID | {"phase": "chat"},
        FOUND | {"phase": "chat"},
        SAID | {"phase": "chat", "allocated": 90},
        FOUND | {"phase": "chat"},
    ]
    found = [(p.phase, p.predicted) for p in pairs("r", [*load, *chat]) if p.kind == "allocated"]
    assert found == [("load", 1), ("chat", 90)]


@pytest.mark.parametrize(
    "events",
    [
        [],
        [SAID],
        [FOUND],
        [SAID, FOUND | {"phase": "chat"}],
        [SAID, {"kind": "error", "job": "tune"}],
        [SAID, FOUND | {"peak": {"allocated": 0}, "parts": {}}],
    ],
)
def test_what_has_only_one_side_is_left_out(events):
    assert pairs("r", events) == []


def test_the_record_holds_the_totals_of_all_runs_and_notices_a_new_measurement(tmp_path):
    for job in ("load", "tune"):
        run = runs.create(tmp_path, job, Settings())
        run.append(**SAID | {"phase": job})
    assert record(tmp_path) == []
    run.append(**FOUND)
    assert {(p.run, p.kind) for p in record(tmp_path)} == {(run.id, "allocated"), (run.id, "device_used")}


def test_the_score_is_the_median_size_and_the_worst_with_its_sign():
    found = [Pair("r", "load", "device_used", predicted, 100) for predicted in (101, 104, 90)] + [
        Pair("r", "load", "rss", 80, 100)
    ]
    device, rss = scores(found)
    assert (device.kind, device.count, round(device.median, 6), round(device.worst, 6)) == (
        "device_used",
        3,
        0.04,
        -0.1,
    )
    assert (rss.count, round(rss.median, 6), round(rss.worst, 6)) == (1, 0.2, -0.2)
