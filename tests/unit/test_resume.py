"""Runs whose process was killed, at any moment, are resumed to the losses and the weights of an uninterrupted run."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from toys import keys

from playground import runs
from playground.engine.training import Checkpoints
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.settings import Settings
from playground.train import best_weights, checkpoint


def run_and_kill(root: Path, settings: Settings, is_moment: Callable[[runs.Run], bool], prepare=lambda: None) -> str:
    """Fine-tune in a process of its own, kill that (SIGKILL) once `is_moment` of its run, and return the run's id."""
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            list(Workbench(root).tune(settings))
        finally:
            os._exit(0)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        history = runs.history(root)
        if history and is_moment(runs.find(root, history[0].id)):
            break
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "it ended before it could be killed"
    return runs.history(root)[0].id


def steps_done(run: runs.Run) -> int:
    return max((event["step"] for event in run.events() if event["kind"] == "step"), default=0)


def losses(run: runs.Run) -> dict:
    """The last recorded loss of each step, and of each evaluation."""
    events = list(run.events())
    steps = {event["step"]: event["loss"] for event in events if event["kind"] == "step"}
    return steps | {(e["when"], e.get("step")): e["loss"] for e in events if e["kind"] == "eval" and "loss" in e}


def slow_steps() -> None:
    """Give a step the time in which the process can be killed."""
    from playground.train import loop

    accumulate = loop._accumulate
    loop._accumulate = lambda *args: (time.sleep(0.05), accumulate(*args))[1]


def hang_while_writing() -> None:
    """Never finish writing the third checkpoint."""
    save, written = torch.save, []

    def half(state, file):
        written.append(1)
        if "optimizer" in state and len(written) > 3:
            file.write(b"half of a checkpoint")
            file.flush()
            time.sleep(600)
        save(state, file)

    torch.save = half


MOMENTS = {
    "before-the-first-step": (lambda run: any(e.get("name") == "train" for e in run.events()), slow_steps),
    "between-two-checkpoints": (lambda run: steps_done(run) == 5, slow_steps),
    "while-a-checkpoint-is-written": (lambda run: (run.folder / "checkpoint.partial").exists(), hang_while_writing),
}


@pytest.fixture
def killable(chosen) -> Settings:
    train = {"max_steps": 8, "save_every": 2, "eval_every": 2, "eval_rows": 3}
    return chosen(lora={"dropout": 0.2}, train=train)


@pytest.mark.slow
def test_killed_run_resumes_bit_for_bit(killable, tmp_path):
    [done] = [e for e in Workbench(tmp_path / "whole").tune(killable) if e["kind"] == "done"]
    whole = runs.find(tmp_path / "whole", done["result"]["run"])
    for name, (is_moment, prepare) in MOMENTS.items():
        root = tmp_path / name
        killed = run_and_kill(root, killable, is_moment, prepare)
        assert steps_done(runs.find(root, killed)) < 8
        [resumed] = [e for e in Workbench(root).resume(killed) if e["kind"] == "done"]
        run = runs.find(root, killed)
        assert losses(run) == losses(whole), name
        assert resumed["result"]["best"] == done["result"]["best"]
        tensors, expected = (load_file(r.adapter / "adapter_model.safetensors") for r in (run, whole))
        assert all(torch.equal(tensors[key], expected[key]) for key in expected), name
        left = {path.name for path in run.folder.iterdir()} - {"answers.jsonl"}
        assert left == {"adapter", "events.jsonl", "settings.json"}, name
        assert runs.history(root)[0].state == "done"


def test_resumed_processes_draw_different_numbers():
    """Only the main process writes its random state."""
    torch.manual_seed(0)
    drawn = [state_after(size=1), *(state_after(size=2, rank=rank) for rank in (0, 1, 1))]
    assert torch.equal(drawn[2], drawn[3])
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])
    torch.manual_seed(0)
    assert torch.equal(drawn[0], torch.rand(4))


def state_after(size: int, rank: int = 0) -> torch.Tensor:
    """What one of so many processes draws after it was brought to a checkpoint with the current random state."""
    state = {"step": 5, "random": torch.get_rng_state(), "random_cuda": []}
    with torch.random.fork_rng():
        checkpoint._restore_random_state(state, SimpleNamespace(team=SimpleNamespace(size=size, rank=rank)))
        return torch.rand(4)


def test_unfinished_checkpoint_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / checkpoint.NAME
    checkpoint.write_whole({"step": 1}, path)

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write_whole({"step": 2}, path)
    assert [file.name for file in tmp_path.iterdir()] == [checkpoint.NAME]
    assert torch.load(path, weights_only=True) == {"step": 1}


@pytest.mark.slow
def test_full_disk_is_a_note_and_training_goes_on(chosen, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_whole", full)
    events = list(Workbench(tmp_path).tune(chosen(train={"save_every": 1, "max_steps": 4})))
    assert [e["key"] for e in events if e["kind"] == "note"].count("note.no_checkpoint") == 1
    assert events[-1]["result"]["steps"] == 4


@pytest.mark.parametrize("every,free,noted", [(0, 3000, True), (0, 5000, False), (3, 3000, False)])
def test_a_run_without_room_for_checkpoints_says_so(monkeypatch, tmp_path, every, free, noted):
    monkeypatch.setattr(checkpoint, "size_of", lambda trainer: 1000)
    monkeypatch.setattr(checkpoint, "free_bytes", lambda folder: free)
    run, train = (
        runs.create(tmp_path, "tune", Settings()),
        Settings().with_values({"train": {"save_every": every}}).train,
    )
    for writes in (True, False):
        kept = Checkpoints(SimpleNamespace(step=0), SimpleNamespace(examples=[]), run, train, writes)
        keys = [note["key"] for note in kept.room_note()]
        assert keys == ["note.no_room_for_checkpoints"] * (noted and writes)


def test_the_step_that_is_kept_is_the_one_in_the_file(monkeypatch, tmp_path):
    full = []

    def save(trainer, examples, path):
        if full:
            raise OSError(28, "No space left on device", str(path))
        path.write_text(str(trainer.step))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for the spare folder
    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(checkpoint, "size_of", lambda trainer: 1000)
    run = runs.create(tmp_path, "tune", Settings())

    def checkpoints(step: int) -> Checkpoints:
        trainer = SimpleNamespace(step=step, changing=threading.Lock())
        return Checkpoints(trainer, SimpleNamespace(examples=[]), run, Settings().train, True)

    first = checkpoints(0)
    assert first.keep() is None
    first._trainer.step = 50
    assert first.keep() == 50
    full.append(1)
    first._trainer.step = 80
    assert first.keep() == 50
    resumed = checkpoints(50)
    resumed._trainer.step = 70
    assert resumed.keep() == 50
    full.clear()
    resumed.close()
    assert resumed.keep() == 50 and (run.folder / checkpoint.NAME).read_text() == "50"
    (run.folder / checkpoint.NAME).unlink()
    assert resumed.keep() is None


def test_automatic_checkpoints_take_a_small_share_of_the_time():
    now = [0.0]
    timer = checkpoint.CheckpointTimer(0, size=1000, free=10**9, clock=lambda: now[0])
    spent = written = 0
    for _ in range(3600):
        now[0] += 1.0
        if timer.is_due(1):
            now[0] += 0.2
            timer.written(0.2)
            spent, written = spent + 0.2, written + 1
    assert written > 100 and spent / now[0] <= checkpoint.AUTO_SHARE < 0.01
    no_room = checkpoint.CheckpointTimer(0, size=1000, free=2000, clock=lambda: now[0])
    now[0] += 10_000
    assert not no_room.is_due(1) and checkpoint.CheckpointTimer(3, 1000, 0).is_due(6)


@pytest.mark.slow
def test_run_that_another_process_works_on_is_not_resumed(killable, tmp_path):
    pid = os.fork()
    if pid == 0:
        try:
            slow_steps()
            from playground.train import loop

            slow = loop._accumulate
            loop._accumulate = lambda *args: (time.sleep(2), slow(*args))[1]
            list(Workbench(tmp_path).tune(killable))
        finally:
            os._exit(0)
    try:
        while not (runs.history(tmp_path) and runs.is_held(runs.find(tmp_path, runs.history(tmp_path)[0].id))):
            time.sleep(0.05)
        run = runs.history(tmp_path)[0].id
        with pytest.raises(PlaygroundError) as caught:
            Workbench(tmp_path).resume(run)
        assert keys(caught) == ["error.run_held"] and caught.value.problems[0].values["pid"] == str(pid)
        with pytest.raises(PlaygroundError) as caught:
            runs.delete(tmp_path, run)
        assert keys(caught) == ["error.run_held"]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert not runs.is_held(runs.find(tmp_path, run))
    runs.delete(tmp_path, run)  # the lock of a dead process is none


def test_unreadable_best_weights_are_an_error(tmp_path):
    path = tmp_path / best_weights.NAME
    assert best_weights.read(path) is None
    path.write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(PlaygroundError) as caught:
        best_weights.read(path)
    assert keys(caught) == ["error.checkpoint"]


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04 half a file", b"\xff" * 4000, b"\x80\x04}.", b"[" * 5000])
def test_an_unreadable_checkpoint_says_what_goes_on_without_it(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(PlaygroundError) as caught:
        checkpoint.restore(None, [], path)
    assert keys(caught) == ["error.checkpoint"]
    text = caught.value.text("en")
    assert "checkpoint.pt" in text and "starts again" in text and str(tmp_path) not in text and "download" not in text
