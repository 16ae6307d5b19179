"""Held-out loss during training: training is unchanged, the best weights are kept, and training ends early."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from toys import keys

from playground import runs
from playground.engine import early_stopping, training
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.settings import Settings, parse
from playground.train import best_weights, checkpoint


def tuned(root, settings: Settings) -> tuple[list[dict], dict]:
    """The events of a fine-tune, and its adapter's tensors."""
    events = list(Workbench(root).tune(settings))
    return events, load_file(root / events[-1]["result"]["run"] / "adapter/adapter_model.safetensors")


def step_losses(events: list[dict]) -> list[float]:
    return [event["loss"] for event in events if event["kind"] == "step"]


def scripted(monkeypatch, losses: dict[int, float]) -> None:
    """Have the held-out loss during training be these values, by step."""
    own = early_stopping.HeldOutEvaluations._measure

    def measure(self):
        own(self)
        return losses[self._trainer.step]

    monkeypatch.setattr(early_stopping.HeldOutEvaluations, "_measure", measure)


@pytest.mark.slow
def test_evaluating_leaves_training_unchanged(chosen, tmp_path):
    lora, quick = {"dropout": 0.3}, {"max_steps": 6, "eval_rows": 3}
    without, expected = tuned(tmp_path, chosen(lora=lora, train=quick))
    events, tensors = tuned(tmp_path, chosen(lora=lora, train=quick | {"eval_every": 1}))
    assert step_losses(events) == step_losses(without)
    during = {e["step"]: e["loss"] for e in events if e["kind"] == "eval" and e["when"] == "during"}
    assert list(during) == [1, 2, 3, 4, 5, 6]
    best = min(during, key=during.__getitem__)
    result = events[-1]["result"]
    assert result["best"] == {"step": best, "loss": during[best]} and "ended" not in result
    assert result["loss"]["after"] == pytest.approx(during[best], abs=1e-4)
    assert best == 6 and all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_best_adapter_is_kept_and_training_ends_early(chosen, tmp_path, monkeypatch):
    quick = {"max_steps": 12, "eval_rows": 3, "schedule": "constant", "warmup": 0.0}
    _, at_four = tuned(tmp_path, chosen(train=quick | {"max_steps": 4}))
    scripted(monkeypatch, {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.0, 10: 1.0, 12: 0.5})
    events, tensors = tuned(tmp_path, chosen(train=quick | {"eval_every": 2, "patience": 2}))
    result = events[-1]["result"]
    assert (result["steps"], result["total_steps"], result["stopped"]) == (8, 12, False)
    assert result["best"] == {"step": 4, "loss": 2.0} and result["ended"] == "early" and not result["checkpoint"]
    [note] = [e for e in events if e["kind"] == "note" and e["key"] == "note.stopped_early"]
    assert note["values"] == {"step": 4, "loss": 2.0, "evaluations": 2}
    assert all(torch.equal(tensors[name], at_four[name]) for name in at_four)
    assert runs.history(tmp_path)[0].state == "done"


@pytest.mark.slow
def test_patience_counts_across_a_resume(chosen, tmp_path, monkeypatch):
    scripted(monkeypatch, {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.5, 5: 1.0})
    settings = chosen(train={"max_steps": 8, "eval_rows": 3, "eval_every": 1, "patience": 2})
    workbench = Workbench(tmp_path)
    for event in workbench.tune(settings):
        if event["kind"] == "step" and event["step"] == 3:
            workbench.stop.set()  # before the evaluation of step 3
        last = event
    assert last["result"]["stopped"] and last["result"]["best"] == {"step": 2, "loss": 2.0}
    resumed = list(Workbench(tmp_path).resume(last["result"]["run"]))
    assert [e["step"] for e in resumed if e["kind"] == "eval" and e["when"] == "during"] == [3, 4]
    assert resumed[-1]["result"]["best"] == {"step": 2, "loss": 2.0} and resumed[-1]["result"]["ended"] == "early"


def test_the_end_of_the_process_leaves_the_checkpoint_of_an_unfinished_run(chosen, tmp_path, monkeypatch):
    made, own = [], training.Checkpoints
    monkeypatch.setattr(training, "Checkpoints", lambda *args: made.append(own(*args)) or made[-1])
    scripted(monkeypatch, {2: 1.0, 4: 2.0})
    workbench = Workbench(tmp_path)
    for event in workbench.tune(chosen(train={"max_steps": 8, "eval_rows": 3, "eval_every": 2})):
        if event["kind"] == "step" and event["step"] == 5:
            workbench.stop.set()
        if event["kind"] == "phase" and event["name"] == "save":  # the model has the weights of step 2 by now
            path = workbench.run.folder / checkpoint.NAME
            before = path.read_bytes()
            assert made[0].keep() == 5 and path.read_bytes() == before
    assert event["result"]["best"] == {"step": 2, "loss": 1.0} and path.read_bytes() == before


def test_best_weights_are_restored_while_nobody_else_reads_the_trainer(tmp_path, monkeypatch):
    trainer = SimpleNamespace(changing=threading.Lock())
    (tmp_path / best_weights.NAME).touch()
    evaluations = SimpleNamespace(best=best_weights.Best(2, 1.0), path=tmp_path / best_weights.NAME, ended_early=False)
    held = []
    monkeypatch.setattr(best_weights, "restore", lambda trainer, path: held.append(trainer.changing.locked()))
    list(training._keep_best(trainer, evaluations, Settings().train))
    assert held == [True]


def test_run_stopped_before_its_last_evaluation_makes_it_when_resumed(chosen, tmp_path, monkeypatch):
    quick = {"max_steps": 4, "eval_rows": 3, "eval_every": 2}
    scripted(monkeypatch, {2: 2.0, 4: 1.0})
    _, whole = tuned(tmp_path / "whole", chosen(train=quick))
    workbench = Workbench(tmp_path / "cut")
    for event in workbench.tune(chosen(train=quick)):
        if event["kind"] == "step" and event["step"] == 4:
            workbench.stop.set()  # before the evaluation of step 4
    assert event["result"]["best"] == {"step": 2, "loss": 2.0} and event["result"]["checkpoint"]
    resumed = list(Workbench(tmp_path / "cut").resume(event["result"]["run"]))[-1]["result"]
    assert resumed["best"] == {"step": 4, "loss": 1.0} and not resumed["checkpoint"]
    tensors = load_file(Path(resumed["adapter"]) / "adapter_model.safetensors")
    assert all(torch.equal(tensors[name], whole[name]) for name in whole)


class Rank:
    """One of two processes that are threads of this one: `any` waits for the other one's condition."""

    size = 2

    def __init__(self, number: int, barrier: threading.Barrier, conditions: dict[int, bool]):
        self.main, self._number, self._barrier, self._conditions = number == 0, number, barrier, conditions

    def any(self, condition: bool) -> bool:
        self._conditions[self._number] = condition
        self._barrier.wait()
        result = any(self._conditions.values())
        self._barrier.wait()
        return result


def test_processes_end_early_together_where_the_best_weights_cannot_be_written(tmp_path, monkeypatch):
    def save(trainer, loss, path):
        if loss == 1.0:
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(best_weights, "save", save)
    barrier, conditions, notes = threading.Barrier(2, timeout=20), {}, []
    train = parse({"train": {"eval_every": 1, "patience": 2}}).train
    run = SimpleNamespace(folder=tmp_path)

    def evaluations(number: int) -> early_stopping.HeldOutEvaluations:
        context = SimpleNamespace(run=run, team=Rank(number, barrier, conditions))
        return early_stopping.HeldOutEvaluations(context, None, SimpleNamespace(examples=[1]), train, 8)

    ranks = [evaluations(0), evaluations(1)]

    def measure(rank: early_stopping.HeldOutEvaluations) -> None:
        for step, loss in enumerate([2.0, 1.0, 3.0], 1):  # the second best can't be written
            notes.extend(event["key"] for event in rank._compare(step, loss))

    threads = [threading.Thread(target=measure, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notes == ["note.best_not_kept"]
    assert [(rank.best, rank.ended_early) for rank in ranks] == [(best_weights.Best(1, 2.0), True)] * 2


@pytest.mark.slow
def test_too_little_memory_for_evaluating_is_a_note(chosen, tmp_path, monkeypatch):
    def short_of_memory(self):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(early_stopping.HeldOutEvaluations, "_measure", short_of_memory)
    events = list(Workbench(tmp_path).tune(chosen(train={"eval_every": 1, "eval_rows": 3})))
    assert [e["key"] for e in events if e["kind"] == "note"].count("note.not_evaluated") == 1
    assert events[-1]["result"]["steps"] == 3 and "best" not in events[-1]["result"]


def test_contradicting_settings_are_refused_together():
    with pytest.raises(PlaygroundError) as caught:
        parse({"train": {"eval_every": 5, "eval_rows": 0, "patience": -1}})
    assert keys(caught) == ["problem.eval_every_rows", "problem.patience"]
    with pytest.raises(PlaygroundError) as caught:
        parse({"train": {"patience": 3}})
    assert keys(caught) == ["problem.patience_alone"]
