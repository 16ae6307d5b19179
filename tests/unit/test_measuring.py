"""A fine-tune is measured before and after, and asked while it learns without noticing."""

import json

import pytest
import torch
from safetensors.torch import load_file
from toys import keys

from playground import runs
from playground.engine import evaluation
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.settings import MAX_EVAL_ROWS


def followed(root, settings, break_off=None) -> tuple[list[dict], dict, dict]:
    """The events of a fine-tune, its result, and the weights that it saved."""
    bench, events = Workbench(root), []
    for event in bench.tune(settings):
        events.append(event)
        if break_off and event["kind"] == "step" and event["step"] == break_off:
            bench.stop.set()
    result = events[-1]["result"]
    name = "model/model.safetensors" if "model" in result else "adapter/adapter_model.safetensors"
    return events, result, load_file(root / result["run"] / name)


def samples(events) -> list[int]:
    return sorted({e["step"] for e in events if e["kind"] == "sample"})


@pytest.mark.parametrize(
    ("load", "lora", "train"),
    [
        ({"bits": 32}, {"dropout": 0.3}, {}),
        ({"bits": 4}, {}, {}),
        ({"bits": 8}, {}, {}),
        ({"bits": 16, "dtype": "bfloat16"}, {}, {"method": "full"}),
    ],
)
def test_training_goes_on_as_if_nobody_had_asked(chosen, tmp_path, load, lora, train):
    alone, asked = (
        followed(tmp_path, chosen(load=load, lora=lora, train=train | {"max_steps": 5, "sample_every": every}))
        for every in ("off", "2")
    )
    assert samples(alone[0]) == [] and samples(asked[0]) == [0, 2, 4, 5]
    assert [e["loss"] for e in alone[0] if e["kind"] == "step"] == [e["loss"] for e in asked[0] if e["kind"] == "step"]
    assert alone[1]["loss"] == asked[1]["loss"] and alone[1]["measures"] == asked[1]["measures"]
    assert all(torch.equal(alone[2][name], asked[2][name]) for name in alone[2])


def test_what_was_asked_at_the_end_is_what_the_tuned_model_answers(chosen, tmp_path):
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


def test_the_run_holds_every_figure_of_both_sides(chosen, tmp_path):
    events, result, _ = followed(tmp_path, chosen(train={"max_steps": 30}))
    [told] = [e for e in events if e["kind"] == "eval" and e["when"] == "measures"]
    assert told["figures"] == result["measures"] and told["asked"] == told["rows"] == 2 and told["limit"] == 24
    assert told["figures"].keys() == {
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
        assert told["figures"]["loss"][side] == pytest.approx(result["loss"][when], rel=1e-4)
        each = next(e for e in events if e.get("when") == when)["each"]
        assert sum(nats for nats, _ in each) / sum(tokens for _, tokens in each) == pytest.approx(
            result["loss"][when], abs=1e-5
        )
    assert (
        told["figures"]["closed"]["tuned"] == 1 and told["figures"]["chrf"]["difference"] > 20
    )  # it learned to write and close such answers
    assert result["recall"] is None and json.loads(json.dumps(result["measures"])) == result["measures"]


def test_a_resumed_fine_tune_is_measured_as_one_that_never_stopped(chosen, tmp_path):
    settings = chosen(train={"max_steps": 8, "sample_every": "3"})
    whole, (_, broken, _) = followed(tmp_path, settings)[1], followed(tmp_path, settings, break_off=4)
    assert broken["measures"] is None
    found = list(Workbench(tmp_path).resume(broken["run"]))[-1]["result"]
    assert found["measures"] == whole["measures"]
    assert samples(runs.find(tmp_path, broken["run"]).events()) == [0, 3, 6, 8]


def test_memory_that_is_not_enough_for_asking_ends_the_asking_alone(chosen, tmp_path, monkeypatch):
    plain = followed(tmp_path, chosen(train={"max_steps": 4}))
    ask = evaluation.answer_rows

    def tight(model, template, rows, sides, most, stop):
        if sides == ("tuned",):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return (yield from ask(model, template, rows, sides, most, stop))

    monkeypatch.setattr(evaluation, "answer_rows", tight)
    found = followed(tmp_path, chosen(train={"max_steps": 4, "sample_every": "1"}))
    assert samples(found[0]) == [] and [e["values"] for e in found[0] if e.get("key") == "note.not_sampled"] == [
        {"step": 0}
    ]
    assert found[1]["measures"] == plain[1]["measures"] and not found[1]["stopped"]
    assert all(torch.equal(plain[2][name], found[2][name]) for name in found[2])


def test_no_rows_to_measure_on_is_a_run_without_figures(chosen, tmp_path):
    events, result, _ = followed(tmp_path, chosen(train={"eval_rows": 0, "sample_every": "1"}))
    assert result["loss"] == {"before": None, "after": None} and result["measures"] is None and result["steps"] == 3
    assert not {"sample", "eval"} & {e["kind"] for e in events}


@pytest.mark.parametrize(
    ("train", "key"),
    [
        ({"eval_rows": MAX_EVAL_ROWS + 1}, "problem.eval_rows"),
        ({"eval_rows": -1}, "problem.eval_rows"),
        ({"sample_every": "0"}, "problem.sample_every"),
        ({"sample_every": "often"}, "problem.sample_every"),
    ],
)
def test_settings_that_measure_nothing_sensible_are_refused(chosen, tmp_path, train, key):
    with pytest.raises(PlaygroundError) as told:
        Workbench(tmp_path).tune(chosen(train=train))
    assert keys(told) == [key]
