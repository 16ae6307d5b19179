"""Events of schema 1 are read as events of today's schema, one case for every name that changed."""

from string import Formatter

import pytest

from playground.i18n import LANGUAGES, table, translate
from playground.runs.upgrade import upgraded

# The words keys of problems that schema 1 stored under other names, with the names of their values.
OLD_PROBLEMS = {
    "problem.card": ["card"],
    "problem.first": ["first"],
    "problem.last": ["last", "first"],
    "problem.longest": ["shortest", "longest"],
    "problem.targets": [],
    "problem.epochs": ["epochs", "steps"],
    "problem.batch": ["batch"],
    "problem.micro_batch": ["batch", "micro_batch"],
    "problem.length": ["length"],
    "problem.tokens": ["tokens"],
    "problem.measured": ["most", "measured"],
    "problem.lr_ratio": ["lr_ratio"],
    "problem.checkpointing": ["checkpointing"],
    "problem.form_empty": [],
    "problem.form_braces": [],
    "problem.form_names": ["names", "known"],
    "problem.form_no_answer": [],
    "problem.form_answers": ["count"],
    "problem.form_no_instruction": [],
    "problem.form_late": ["names"],
}


@pytest.mark.parametrize(
    "old,new",
    [
        ("run", "run_started"),
        ("prediction", "memory_predicted"),
        ("measured", "memory_measured"),
        ("score", "eval"),
        ("failure", "error"),
    ],
)
def test_an_old_kind_has_todays_name(old, new):
    assert upgraded({"t": 1.0, "kind": old, "extra": 3}) == {"t": 1.0, "kind": new, "extra": 3}


@pytest.mark.parametrize("kind", ["step", "phase", "from the future"])
def test_other_kinds_and_their_fields_are_kept(kind):
    event = {"t": 1.0, "kind": kind, "device": 7, "feed": "x", "settings": {"train": {"steps": 1}}, "peak": 5}
    assert upgraded(event) == event


@pytest.mark.parametrize("kind", ["memory", "prediction", "memory_predicted"])
def test_device_becomes_device_used(kind):
    event = upgraded({"t": 0, "kind": kind, "device": 9, "allocated": 4})
    assert event["device_used"] == 9 and event["allocated"] == 4 and "device" not in event


def test_peaks_of_measurements_and_results_have_device_used():
    assert upgraded({"t": 0, "kind": "measured", "peak": {"device": 9}})["peak"] == {"device_used": 9}
    done = upgraded({"t": 0, "kind": "done", "result": {"peak": {"device": 9, "rss": 1}, "loss": 2}})
    assert done["result"] == {"peak": {"device_used": 9, "rss": 1}, "loss": 2}


def test_feed_of_a_prediction_becomes_batching():
    event = upgraded({"t": 0, "kind": "prediction", "feed": "packed"})
    assert event["batching"] == "packed" and "feed" not in event


def test_the_template_own_of_a_result_becomes_custom():
    assert upgraded({"t": 0, "kind": "done", "result": {"template": "own"}})["result"]["template"] == "custom"
    assert upgraded({"t": 0, "kind": "done", "result": {"template": "chat"}})["result"]["template"] == "chat"


def test_settings_of_the_first_event_have_todays_names():
    settings = {"train": {"steps": 3, "lr": 0.1}, "data": {"template": "own"}, "load": {"card": 8.0}, "other": 1}
    assert upgraded({"t": 0, "kind": "run", "settings": settings})["settings"] == {
        "train": {"max_steps": 3, "lr": 0.1},
        "data": {"prompt_format": "custom"},
        "load": {"simulate_gpu_gib": 8.0},
        "other": 1,
    }


@pytest.mark.parametrize("key", OLD_PROBLEMS)
def test_an_old_problem_can_be_translated(key):
    values = dict.fromkeys(OLD_PROBLEMS[key], 1)
    [problem] = upgraded({"t": 0, "kind": "failure", "problems": [{"key": key, "values": values}]})["problems"]
    placeholders = {name for _, name, _, _ in Formatter().parse(table("en")[problem["key"]]) if name}
    assert placeholders <= set(problem["values"])
    for lang in LANGUAGES:
        assert translate(lang, problem["key"], **problem["values"])


def test_other_problems_and_malformed_ones_are_kept():
    problems = [{"key": "error.length", "values": {"length": 9, "longest": 8}}, "text", {"key": "problem.batch"}, {}]
    kept = upgraded({"t": 0, "kind": "error", "problems": problems})["problems"]
    assert kept[0] == problems[0] and kept[1] == "text" and kept[3] == {}
    assert kept[2]["key"] == "problem.batch_size"


def test_an_event_of_todays_schema_is_unchanged():
    for event in (
        {"t": 0, "kind": "memory_predicted", "device_used": 3, "batching": "packed", "parts": {}},
        {"t": 0, "kind": "memory_measured", "peak": {"device_used": 3}},
        {"t": 0, "kind": "error", "problems": [{"key": "problem.batch_size", "values": {"batch_size": 0}}]},
        {"t": 0, "kind": "run_started", "settings": {"train": {"max_steps": 3}}},
    ):
        assert upgraded(event) == event
