"""Evaluation before and after a fine-tune, and sample answers during it that change nothing."""

import json

import pytest
import torch
from safetensors.torch import load_file
from toys import keys

from playground import runs
from playground.engine import evaluation
from playground.engine.process import start_job
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.settings import MAX_EVAL_ROWS


def followed(root, settings, stop_at=None) -> tuple[list[dict], dict, dict]:
    """The events of a fine-tune, its result, and the weights that it saved."""
    workbench, events = Workbench(root), []
    for event in workbench.tune(settings):
        events.append(event)
        if stop_at and event["kind"] == "step" and event["step"] == stop_at:
            workbench.stop.set()
    result = events[-1]["result"]
    name = "model/model.safetensors" if "model" in result else "adapter/adapter_model.safetensors"
    return events, result, load_file(root / result["run"] / name)


def samples(events) -> list[int]:
    return sorted({e["step"] for e in events if e["kind"] == "sample"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("load", "lora", "train"),
    [
        ({"bits": 32}, {"dropout": 0.3}, {}),
        ({"bits": 4}, {}, {}),
        pytest.param({"bits": 8}, {}, {}, marks=pytest.mark.exhaustive),
        ({"bits": 16, "dtype": "bfloat16"}, {}, {"method": "full"}),
    ],
)
def test_sampling_changes_neither_losses_nor_weights(chosen, tmp_path, load, lora, train):
    plain, sampled = (
        followed(tmp_path, chosen(load=load, lora=lora, train=train | {"max_steps": 5, "sample_every": every}))
        for every in ("off", "2")
    )
    assert samples(plain[0]) == [] and samples(sampled[0]) == [0, 2, 4, 5]
    assert [e["loss"] for e in plain[0] if e["kind"] == "step"] == [
        e["loss"] for e in sampled[0] if e["kind"] == "step"
    ]
    assert plain[1]["loss"] == sampled[1]["loss"] and plain[1]["measures"] == sampled[1]["measures"]
    assert all(torch.equal(plain[2][name], sampled[2][name]) for name in plain[2])


@pytest.mark.slow
def test_last_samples_are_the_tuned_answers_and_first_samples_the_base_answers(chosen, tmp_path):
    events, result, _ = followed(tmp_path, chosen(train={"max_steps": 12, "sample_every": "auto"}))
    assert samples(events) == [0, 5, 10, 12]
    kept = [
        json.loads(line)
        for line in (tmp_path / result["run"] / evaluation.ANSWERS).read_text(encoding="utf-8").splitlines()
    ]
    first, last = (
        {e["prompt"]: e["text"] for e in events if e["kind"] == "sample" and e["step"] == step} for step in (0, 12)
    )
    assert last == {row["question"]: row["tuned"]["text"] for row in kept} and first == {
        row["question"]: row["base"]["text"] for row in kept
    }


@pytest.mark.slow
def test_run_records_every_figure_of_both_sides(chosen, tmp_path):
    events, result, _ = followed(tmp_path, chosen(train={"max_steps": 30}))
    [event] = [e for e in events if e["kind"] == "eval" and e["when"] == "measures"]
    assert event["figures"] == result["measures"] and event["asked"] == event["rows"] == 2 and event["limit"] == 24
    assert event["figures"].keys() == {
        "loss",
        "perplexity",
        "closed",
        "chrf",
        "characters",
        "tokens",
        "distinct_1",
        "distinct_2",
    }  # no keys: no recall
    for when, side in (("before", "base"), ("after", "tuned")):
        assert event["figures"]["loss"][side] == pytest.approx(result["loss"][when], rel=1e-4)
        each = next(e for e in events if e.get("when") == when)["each"]
        assert sum(nats for nats, _ in each) / sum(tokens for _, tokens in each) == pytest.approx(
            result["loss"][when], abs=1e-5
        )
    assert (
        event["figures"]["closed"]["tuned"] == 1 and event["figures"]["chrf"]["difference"] > 20
    )  # it learned to write and close such answers
    assert result["recall"] is None and json.loads(json.dumps(result["measures"])) == result["measures"]


@pytest.mark.slow
def test_resumed_fine_tune_has_the_same_measures_as_one_that_never_stopped(chosen, tmp_path):
    settings = chosen(train={"max_steps": 8, "sample_every": "3"})
    whole, (_, stopped, _) = followed(tmp_path, settings)[1], followed(tmp_path, settings, stop_at=4)
    assert stopped["measures"] is None
    resumed = list(Workbench(tmp_path).resume(stopped["run"]))[-1]["result"]
    assert resumed["measures"] == whole["measures"]
    assert samples(runs.find(tmp_path, stopped["run"]).events()) == [0, 3, 6, 8]


@pytest.mark.slow
def test_out_of_memory_while_sampling_ends_only_the_sampling(chosen, tmp_path, monkeypatch):
    plain = followed(tmp_path, chosen(train={"max_steps": 4}))
    answer_rows = evaluation.answer_rows

    def answer_rows_short_of_memory(model, template, rows, sides, most, stop):
        if sides == ("tuned",):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return (yield from answer_rows(model, template, rows, sides, most, stop))

    monkeypatch.setattr(evaluation, "answer_rows", answer_rows_short_of_memory)
    sampled = followed(tmp_path, chosen(train={"max_steps": 4, "sample_every": "1"}))
    assert samples(sampled[0]) == [] and [e["values"] for e in sampled[0] if e.get("key") == "note.not_sampled"] == [
        {"step": 0}
    ]
    assert sampled[1]["measures"] == plain[1]["measures"] and not sampled[1]["stopped"]
    assert all(torch.equal(plain[2][name], sampled[2][name]) for name in plain[2])


def test_run_without_eval_rows_has_no_figures(chosen, tmp_path):
    events, result, _ = followed(tmp_path, chosen(train={"eval_rows": 0, "sample_every": "1"}))
    assert result["loss"] == {"before": None, "after": None} and result["measures"] is None and result["steps"] == 3
    assert not {"sample", "eval"} & {e["kind"] for e in events}


def test_run_without_eval_rows_resumes(chosen, tmp_path):
    settings = chosen(train={"max_steps": 5, "eval_rows": 0})
    _, stopped, _ = followed(tmp_path, settings, stop_at=2)
    resumed = list(Workbench(tmp_path).resume(stopped["run"]))[-1]["result"]
    assert resumed["steps"] == 5 and resumed["loss"] == {"before": None, "after": None} and resumed["measures"] is None


@pytest.mark.slow
def test_eval_event_without_rows_resumes_with_its_mean_alone(chosen, tmp_path):
    _, stopped, _ = followed(tmp_path, chosen(train={"max_steps": 5}), stop_at=2)
    path = tmp_path / stopped["run"] / "events.jsonl"
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for event in events:
        event.pop("each", None)
    path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    resumed = list(Workbench(tmp_path).resume(stopped["run"]))[-1]["result"]
    assert resumed["loss"]["before"] == stopped["loss"]["before"] > resumed["loss"]["after"]
    assert "loss" not in resumed["measures"] and "chrf" in resumed["measures"]


@pytest.mark.parametrize(
    ("train", "key"),
    [
        ({"eval_rows": MAX_EVAL_ROWS + 1}, "problem.eval_rows"),
        ({"eval_rows": -1}, "problem.eval_rows"),
        ({"sample_every": "0"}, "problem.sample_every"),
        ({"sample_every": "often"}, "problem.sample_every"),
    ],
)
def test_invalid_evaluation_settings_are_refused(chosen, tmp_path, train, key):
    with pytest.raises(PlaygroundError) as caught:
        start_job(Workbench(tmp_path), "tune", {"settings": chosen(train=train).to_dict()})
    assert keys(caught) == [key]
