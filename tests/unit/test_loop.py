"""The training loop: pauses between steps change nothing about training, and its events say how far it is."""

import random
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
import toys

from playground.data.batch import Example
from playground.errors import PlaygroundError
from playground.model.load import LoadedModel
from playground.settings import Settings
from playground.train import loop
from playground.train.loop import Between, fine_tune, learning_rate_at, total_steps
from playground.train.parallel import Team
from playground.train.prepare import prepare_trainer
from playground.train.trainer import Trainer

DRAW = random.Random(0)
ROWS = [Example([DRAW.randrange(5, 330) for _ in range(DRAW.randrange(8, 40))], 4) for _ in range(24)]
SETTINGS = Settings().with_values(
    {
        "load": {"bits": 32, "device": "cpu"},
        "lora": {"dropout": 0.2},
        "train": {"max_steps": 4, "batch_size": 8, "lr": 1e-2},
    }
)


def make_trainer() -> Trainer:
    model = toys.make_model("llama").requires_grad_(False)
    loaded = LoadedModel(model, toys.make_tokenizer(False), "cpu", torch.float32, "")
    return prepare_trainer(loaded, SETTINGS, ROWS, [], Team("cpu"))


def run(trainer: Trainer, between: Between = lambda step: None, stop_at: int = 0) -> list[dict]:
    """All events of a fine-tune; `stop` is set at step `stop_at`."""
    stop, events = threading.Event(), []
    torch.manual_seed(0)  # of dropout
    for event in fine_tune(trainer, ROWS, SETTINGS.train, stop, between):
        events.append(event)
        if event["kind"] == "step" and event["step"] == stop_at:
            stop.set()
    return events


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.optimizer.parameters]


def losses(events: list[dict]) -> list[float]:
    return [event["loss"] for event in events if event["kind"] == "step"]


def test_pauses_leave_training_bit_for_bit_the_same():
    plain, paused = make_trainer(), make_trainer()
    expected = run(plain)
    events = run(paused, lambda step: iter([{"kind": "sample", "step": step}]) if step % 2 == 0 else None)
    assert [event["step"] for event in events if event["kind"] == "sample"] == [2, 4]
    assert [event["kind"] for event in events] == ["step", "step", "sample", "step", "step", "sample"]
    assert losses(events) == losses(expected)
    assert all(torch.equal(a, b) for a, b in zip(weights(paused), weights(plain), strict=True))


def test_in_a_pause_the_model_is_out_of_training_mode():
    trainer, modes = make_trainer(), []

    def state() -> tuple[bool, bool]:
        patched = any(type(module).__name__.startswith("Efficient") for module in trainer.loss_module.modules())
        return trainer.loss_module.training, patched or any("forward" in vars(layer) for layer in trainer.layers.all)

    def pause(step: int) -> Iterator[dict]:
        modes.append(state())
        yield {"kind": "sample"}

    run(trainer, lambda step: pause(step) if step == 2 else None)
    assert modes == [(False, False)] and state() == (False, False)


def test_the_time_of_a_pause_is_not_training_time(monkeypatch):
    clock, accumulate = [100.0], loop._accumulate

    def accumulate_in_one_second(*args):
        clock[0] += 1
        return accumulate(*args)

    def pause() -> Iterator[dict]:
        clock[0] += 1000
        yield {"kind": "sample"}

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(loop, "_accumulate", accumulate_in_one_second)
    steps = [e for e in run(make_trainer(), lambda step: pause() if step == 2 else None) if e["kind"] == "step"]
    assert [event["left_s"] for event in steps] == [3, 2, 1, 0]
    assert steps[3]["tokens_per_s"] == pytest.approx(steps[3]["tokens"] / 4, abs=0.1)


def test_a_stop_within_a_pause_ends_training_before_the_next_step():
    trainer = make_trainer()
    events = run(trainer, lambda step: iter([{"kind": "sample"}]), stop_at=2)
    assert [event["kind"] for event in events] == ["step", "sample", "step", "sample"] and trainer.step == 2


def test_a_run_whose_steps_are_done_yields_nothing():
    trainer = make_trainer()
    trainer.step = 4
    assert run(trainer) == []


@pytest.mark.parametrize("schedule, middle", [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_the_learning_rate_warms_up_and_follows_its_schedule(schedule, middle):
    train = Settings().with_values({"train": {"schedule": schedule, "warmup": 0.2, "lr": 1.0}}).train
    assert [learning_rate_at(step, 10, train) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert learning_rate_at(6, 10, train) == pytest.approx(middle)


def test_total_steps_are_those_of_whole_epochs_unless_limited():
    train = Settings().with_values({"train": {"batch_size": 8, "epochs": 2.0, "max_steps": 0}}).train
    assert total_steps(17, train) == 6
    assert total_steps(17, Settings().with_values({"train": {"max_steps": 5}}).train) == 5


def test_an_update_that_diverges_at_the_last_step_is_an_error(monkeypatch):
    trainer = make_trainer()
    step = trainer.optimizer.step

    def diverge(lr):
        step(lr)
        if trainer.step == SETTINGS.train.max_steps - 1:
            trainer.optimizer.copies[0].data.fill_(torch.nan)

    monkeypatch.setattr(trainer.optimizer, "step", diverge)
    with pytest.raises(PlaygroundError) as error:
        run(trainer)
    assert toys.keys(error) == ["error.diverged"] and error.value.problems[0].values["step"] == 4


def test_a_run_of_which_every_step_was_skipped_is_an_error(monkeypatch):
    trainer = make_trainer()
    step = trainer.optimizer.step

    def skip(lr):
        step(lr)
        trainer.optimizer.skipped += 1

    monkeypatch.setattr(trainer.optimizer, "step", skip)
    with pytest.raises(PlaygroundError) as error:
        run(trainer)
    assert toys.keys(error) == ["error.all_skipped"]
