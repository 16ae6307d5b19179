"""Runs and settings files of earlier versions still open, chart, compare, chat and resume.

tests/data/runs-schema-1 was written by version 0.1: a finished fine-tune, and one that was stopped after four of eight
steps, on a toy model that `toys.save` makes again.
"""

import json
import shutil

import pytest
import toys
from toys import PROJECT, keys

from playground import runs
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.runs import accuracy
from playground.settings import Generation, parse

OLD = PROJECT / "tests/data/runs-schema-1"


@pytest.fixture
def old_runs(tmp_path, monkeypatch):
    """A folder of old runs, in the working directory that their relative paths start from."""
    shutil.copytree(OLD, tmp_path / "runs")
    shutil.move(tmp_path / "runs/lesson.jsonl", tmp_path / "lesson.jsonl")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    toys.save(tmp_path / "toy-llama", **sizes)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_old_settings_are_read_under_todays_names(old_runs):
    settings = runs.find(old_runs, "finished").settings()
    assert (settings.load.simulate_gpu_gib, settings.load.force) == (8.0, True)
    assert (settings.data.start_row, settings.data.end_row, settings.data.min_chars, settings.data.max_chars) == (
        1,
        20,
        5,
        500,
    )
    assert (settings.data.prompt_format, settings.data.custom_format) == ("custom", "Q: {instruction}\nA: {answer}")
    assert (settings.lora.target_modules, settings.lora.use_rslora, settings.lora.loraplus_lr_ratio) == (
        "attention",
        True,
        2.0,
    )
    train = settings.train
    assert (train.max_steps, train.batch_size, train.max_seq_length, train.gradient_checkpointing) == (6, 4, 96, "all")
    assert (train.max_tokens_per_micro_batch, train.eval_rows, train.save_every) == (200, 4, 2)


def test_an_old_run_is_listed_with_its_result(old_runs):
    states = {summary.id: (summary.state, summary.job, summary.bits) for summary in runs.history(old_runs)}
    assert states == {"finished": ("done", "tune", 32), "stopped": ("stopped", "tune", 32)}
    assert runs.last_result(runs.find(old_runs, "finished"))["template"] == "custom"


def test_events_of_an_old_run_are_read_as_todays_kinds(old_runs):
    events = list(runs.find(old_runs, "finished").events())
    assert events[0]["kind"] == "run_started" and events[0]["settings"]["train"]["max_steps"] == 6
    assert events[0]["hardware"]["simulated"] is False
    kinds = {event["kind"] for event in events}
    assert {"memory_predicted", "memory_measured", "eval", "memory", "step", "sample", "done"} <= kinds
    assert not {"run", "prediction", "measured", "score"} & kinds
    compared = {(pair.phase, pair.kind) for pair in accuracy.pairs("finished", events)}
    assert {("load", "rss"), ("tune", "rss"), ("load", "weights")} <= compared


def test_an_old_adapter_answers_and_differs_from_its_base(old_runs):
    run = runs.find(old_runs, "finished")
    turn = [{"instruction": "What is the answer to question 3?", "answer": None}]
    events = Workbench(old_runs).chat(
        run.settings(), run.id, {"base": turn, "tuned": turn}, Generation(max_new_tokens=8)
    )
    answers = [event for event in events if event["kind"] == "answer"]
    assert answers and answers[-1]["base"] != answers[-1]["tuned"]


@pytest.mark.slow
def test_an_old_checkpoint_resumes(old_runs):
    steps = [event["step"] for event in Workbench(old_runs).resume("stopped") if event["kind"] == "step"]
    assert steps == [5, 6, 7, 8]


def test_settings_of_a_newer_version_are_refused_with_a_sentence(old_runs):
    path = old_runs / "finished/settings.json"
    path.write_text(json.dumps({"schema": 3, **json.loads(path.read_text())}))
    with pytest.raises(PlaygroundError) as caught:
        runs.find(old_runs, "finished").settings()
    assert keys(caught) == ["error.settings_newer"] and "version 3" in str(caught.value)


def test_a_field_under_both_names_keeps_the_value_of_todays():
    assert parse({"train": {"batch": 4, "batch_size": 8}}).train.batch_size == 8
    assert parse({"train": {"batch_size": 8, "batch": 4}}).train.batch_size == 8
