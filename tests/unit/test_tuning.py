"""A fine-tune that stops, breaks off, runs out of memory or trains every weight."""

import json

import pytest
import torch
from safetensors.torch import load_file
from toys import keys, make_model

from playground import runs
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.settings import Generation
from playground.train import checkpoint, loop
from playground.train.memory_policy import MemoryPlan


def end(events) -> dict:
    return [e for e in events if e["kind"] == "done"][-1]["result"]


def stopped_after(bench, events, step: int) -> dict:
    """Follow a fine-tune and press Stop at a step; returns its result."""
    seen = []
    for event in events:
        seen.append(event)
        if event["kind"] == "step" and event["step"] == step:
            bench.stop.set()
    return end(seen)


def weights(root, run: str) -> dict:
    return load_file(root / run / "adapter/adapter_model.safetensors")


@pytest.mark.parametrize(
    "lora", [{}, {"dropout": 0.3}, {"use_rslora": True, "loraplus_lr_ratio": 4.0}, {"use_dora": True}]
)
def test_a_stopped_fine_tune_goes_on_bit_for_bit(chosen, tmp_path, lora):
    settings = chosen(lora=lora, train={"max_steps": 8})
    whole = end(Workbench(tmp_path).tune(settings))
    bench = Workbench(tmp_path)
    broken = stopped_after(bench, bench.tune(settings), 3)
    assert broken["steps"] == 3 and broken["stopped"] and (tmp_path / broken["run"] / checkpoint.NAME).is_file()
    found = end(Workbench(tmp_path).resume(broken["run"]))
    assert (found["run"], found["steps"], found["stopped"]) == (broken["run"], 8, False)
    assert found["loss"] == whole["loss"]
    ours, theirs = weights(tmp_path, broken["run"]), weights(tmp_path, whole["run"])
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    run = runs.find(tmp_path, broken["run"])
    assert [e["step"] for e in run.events() if e["kind"] == "step"] == list(range(1, 9))
    assert runs.history(tmp_path)[0].state == "done" and not (run.folder / checkpoint.NAME).exists()


def test_a_run_that_broke_off_goes_on_from_its_last_checkpoint(chosen, tmp_path, monkeypatch):
    settings = chosen(train={"max_steps": 6, "save_every": 2})
    whole = end(Workbench(tmp_path).tune(settings))
    accumulate, calls = loop._accumulate, []

    def breaks(*args):
        calls.append(1)
        if len(calls) == 6:
            raise OSError("the machine was unplugged")
        return accumulate(*args)

    monkeypatch.setattr(loop, "_accumulate", breaks)
    with pytest.raises(PlaygroundError):
        list(Workbench(tmp_path).tune(settings))
    broken = runs.history(tmp_path)[0]
    assert broken.state == "failed"
    found = end(Workbench(tmp_path).resume(broken.id))
    assert found["steps"] == 6
    ours, theirs = weights(tmp_path, broken.id), weights(tmp_path, whole["run"])
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_cannot_be_resumed_is_said(chosen, tmp_path, lesson):
    bench = Workbench(tmp_path)
    done = end(bench.tune(chosen()))
    with pytest.raises(PlaygroundError) as told:
        bench.resume(done["run"])
    assert keys(told) == ["error.no_checkpoint"]
    own = tmp_path / "own.jsonl"
    own.write_text(lesson.read_text())
    broken = stopped_after(bench, bench.tune(chosen(data={"source": str(own)}, train={"max_steps": 5})), 2)
    own.write_text(lesson.read_text().replace("blue", "red").replace("question 1", "question one"))
    with pytest.raises(PlaygroundError) as told:
        list(bench.resume(broken["run"]))
    assert keys(told) == ["error.checkpoint"]
    own.write_text(lesson.read_text())
    (tmp_path / broken["run"] / checkpoint.NAME).write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(PlaygroundError) as told:
        list(Workbench(tmp_path).resume(broken["run"]))
    assert keys(told) == ["error.checkpoint"]


def test_out_of_memory_steps_the_dial_down_and_loses_nothing(chosen, tmp_path, monkeypatch):
    settings = chosen(train={"max_steps": 4})
    whole = [e["loss"] for e in Workbench(tmp_path).tune(settings) if e["kind"] == "step"]
    forward, calls = loop.Loss.forward, []

    def tight(self, batch, **how):
        if (
            torch.is_grad_enabled() and self.training and not next(self.parameters()).is_meta
        ):  # not while it is predicted
            calls.append(1)
            if len(calls) in (3, 5):  # the first is the plan's own look; then twice in the middle of a step
                raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, batch, **how)

    monkeypatch.setattr(loop.Loss, "forward", tight)
    events = list(Workbench(tmp_path).tune(settings))
    notes = [e["values"] for e in events if e["kind"] == "note" and e["key"] == "note.stepped_down"]
    assert len(notes) == 2 and notes[0]["before"] == "off" and notes[1]["before"] == notes[0]["now"]
    assert [e["loss"] for e in events if e["kind"] == "step"] == pytest.approx(whole, rel=1e-4)


def test_out_of_memory_with_nothing_left_to_try_is_told(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(MemoryPlan, "step_down", lambda self: False)
    monkeypatch.setattr(loop, "_accumulate", lambda *args: (_ for _ in ()).throw(RuntimeError("can't allocate memory")))
    with pytest.raises(PlaygroundError) as told:
        list(Workbench(tmp_path).tune(chosen()))
    assert keys(told) == ["error.out_of_memory"]


def test_a_compiler_that_fails_is_done_without(chosen, tmp_path, monkeypatch):
    from playground.train import checkpointing

    def broken(run, dynamic):
        def fails(*args, **kwargs):
            raise RuntimeError("no C++ compiler")

        return fails

    checkpointing._compiled.cache_clear()
    monkeypatch.setattr(checkpointing.torch, "compile", broken)
    events = list(Workbench(tmp_path).tune(chosen(train={"compile": "on"})))
    checkpointing._compiled.cache_clear()
    assert [e["key"] for e in events if e["kind"] == "note"].count("note.compile_failed") == 1
    assert end(events)["steps"] == 3


@pytest.mark.parametrize("bits", [32, 16])
def test_a_full_fine_tune_trains_and_saves_every_weight(chosen, tmp_path, bits):
    bench = Workbench(tmp_path)
    settings = chosen(load={"bits": bits, "dtype": "bfloat16"}, train={"method": "full", "max_steps": 6, "lr": 3e-3})
    events = list(bench.tune(settings))
    result, steps = end(events), [e["loss"] for e in events if e["kind"] == "step"]
    assert steps[-1] < steps[0] and "adapter" not in result
    parts, size = result["parts"], bits // 8
    trained = sum(p.numel() for p in make_model("llama").parameters())
    assert parts["adapters"] == 0 and parts["weights"] - trained * size < 4096
    assert 0 <= parts["optimizer"] - 2 * trained * size < 4096
    saved = load_file(tmp_path / result["run"] / "model/model.safetensors")
    before = make_model("llama").state_dict()
    assert all(
        (saved[name].float() - before[name]).abs().max() > 0
        for name in ("lm_head.weight", "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight")
    )
    assert runs.history(tmp_path)[0].has_adapter


def test_base_and_a_full_fine_tune_answer_side_by_side(chosen, tmp_path):
    bench = Workbench(tmp_path)
    settings = chosen(train={"method": "full", "max_steps": 12, "lr": 5e-3})
    turn = [{"instruction": "What is the answer to question 3?", "answer": None}]

    def ask(run, sides):
        return [e for e in bench.chat(settings, run, sides, Generation(max_new_tokens=6)) if e["kind"] == "answer"][-1]

    alone = ask(None, {"base": turn})["base"]
    run = end(bench.tune(settings))["run"]
    both = ask(run, {"base": turn, "tuned": turn})
    assert both["base"] == alone and both["tuned"] != alone


def test_a_full_fine_tune_of_quantized_weights_is_refused(chosen, tmp_path):
    with pytest.raises(PlaygroundError) as told:
        Workbench(tmp_path).tune(chosen(load={"bits": 4}, train={"method": "full"}))
    assert keys(told) == ["problem.full_bits"]


def test_the_same_seed_gives_the_same_run(chosen, tmp_path):
    found = [end(Workbench(tmp_path).tune(chosen(lora={"dropout": 0.1}))) for _ in range(2)]
    first, second = (weights(tmp_path, f["run"]) for f in found)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert json.dumps(found[0]["loss"]) == json.dumps(found[1]["loss"])
