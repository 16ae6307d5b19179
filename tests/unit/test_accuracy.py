"""Predictions beside measurements: which figures are paired, with which sign, and what is left out."""

import pytest

from playground import runs
from playground.accuracy import Pair, pairs, record, scores

SAID = {"kind": "prediction", "phase": "tune", "parts": {"weights": 90, "loss": 7}, "allocated": 110, "reserved": 130, "device": 200}
DONE = {"kind": "done", "job": "tune", "result": {"peak": {"allocated": 100, "device": 250, "rss": 5}, "parts": {"weights": 100, "optimizer": 3}}}


def test_what_was_predicted_and_measured_is_paired_with_a_signed_error():
    found = pairs("r", [SAID, DONE])
    assert [(p.job, p.kind, p.predicted, p.measured) for p in found] == [("tune", "allocated", 110, 100), ("tune", "device", 200, 250), ("tune", "weights", 90, 100)]
    assert [round(p.error, 6) for p in found] == [0.1, -0.2, -0.1]


def test_each_job_of_a_run_counts_once_as_it_was_done_last():
    load = [SAID | {"phase": "load", "allocated": 1}, DONE | {"job": "load", "result": {"peak": {"allocated": 1}}}]
    chat = [SAID | {"phase": "chat"}, DONE | {"job": "chat"}, SAID | {"phase": "chat", "allocated": 90}, DONE | {"job": "chat"}]
    found = [(p.job, p.predicted) for p in pairs("r", [*load, *chat]) if p.kind == "allocated"]
    assert found == [("load", 1), ("chat", 90)]


@pytest.mark.parametrize("events", [
    [], [SAID], [DONE], [SAID, DONE | {"job": "chat"}], [SAID, DONE | {"result": {}}], [SAID, {"kind": "failure", "job": "tune"}],
    [SAID, DONE | {"result": DONE["result"] | {"stopped": True, "steps": 1}}], [SAID, DONE | {"result": {"peak": {"allocated": 0}}}],
])  # fmt: skip
def test_what_has_only_one_side_or_never_reached_its_peak_is_left_out(events):
    assert pairs("r", events) == []


def test_a_fine_tune_that_was_stopped_after_two_steps_counts():
    assert pairs("r", [SAID, DONE | {"result": DONE["result"] | {"stopped": True, "steps": 2}}])


def test_the_record_holds_the_totals_of_all_runs_and_notices_a_new_end(tmp_path):
    for job in ("load", "tune"):
        run = runs.create(tmp_path, job, {})
        run.append(**SAID | {"phase": job})
    assert record(tmp_path) == []
    run.append(**DONE)
    assert {(p.run, p.kind) for p in record(tmp_path)} == {(run.id, "allocated"), (run.id, "device")}


def test_the_score_is_the_median_size_and_the_worst_with_its_sign():
    found = [Pair("r", "load", "device", predicted, 100) for predicted in (101, 104, 90)] + [Pair("r", "load", "rss", 80, 100)]
    device, rss = scores(found)
    assert (device.kind, device.count, round(device.median, 6), round(device.worst, 6)) == ("device", 3, 0.04, -0.1)
    assert (rss.count, round(rss.median, 6), round(rss.worst, 6)) == (1, 0.2, -0.2)
