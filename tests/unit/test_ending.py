"""A fine-tune that is ended, by a signal or with its program, keeps what it has learned and says what ended it."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from toys import PROJECT

from playground import ending, runs
from playground.ending import ENDING
from playground.engine import job
from playground.engine.workbench import Workbench
from playground.memory.peaks import PeakTracker
from playground.settings import Settings
from playground.train import checkpoint, loop
from playground.train.parallel import Team
from playground.ui import downloads
from playground.ui import ending as page_ending
from playground.ui.shared_page import SharedPage

WAIT = 60  # seconds at most, for any state
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "the state never came"
        time.sleep(0.01)


def start(root: Path, settings: Settings, prepare: Callable[[], object] = lambda: None) -> int:
    """Fine-tune in a process of its own, as the command does; returns its id once it has made two steps."""
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            with ENDING.signals():
                list(Workbench(root).tune(settings))
        finally:
            os._exit(ENDING.status)
    wait_until(lambda: steps_done(root) >= 2)
    return pid


def steps_done(root: Path) -> int:
    history = runs.history(root)
    events = runs.find(root, history[0].id).events() if history else ()
    return max((event["step"] for event in events if event["kind"] == "step"), default=0)


def end_status(pid: int) -> int:
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def check_kept(root: Path, cause: str, key: str) -> runs.Run:
    """The record is closed once, with the cause, and the checkpoint is of a step that was made."""
    summary = runs.history(root)[0]
    run = runs.find(root, summary.id)
    events = list(run.events())
    assert (summary.state, summary.result["ended_by"]) == ("stopped", cause)
    assert [event["kind"] for event in events].count("done") == 1 and events[-1]["kind"] == "done"
    notes = {event["key"]: event["values"] for event in events if event["kind"] == "note"}
    assert notes[key] == ({"signal": cause} if key == "note.ended_signal" else {})
    kept = torch.load(run.folder / checkpoint.NAME, weights_only=True)["step"]
    assert kept == notes["note.ended_kept"]["step"] >= 2
    return run


def slow_steps() -> None:
    accumulate = loop._accumulate
    loop._accumulate = lambda *args: (time.sleep(0.05), accumulate(*args))[1]


def hanging_step() -> None:
    """The third step never ends, and its work can't be stopped, as a call into a library can't be."""
    accumulate, done = loop._accumulate, []

    def hang(*args):
        done.append(1)
        if len(done) > 2:
            torch.rand(3)  # the step had begun
            time.sleep(600)
        return accumulate(*args)

    loop._accumulate = hang
    ending.GRACE_SECONDS = 0.1


@pytest.fixture
def long(chosen) -> Settings:
    return chosen(lora={"dropout": 0.2}, train={"max_steps": 1000})


@pytest.mark.parametrize("name", SIGNALS)
def test_signal_keeps_the_training_and_names_itself(long, tmp_path, name):
    pid = start(tmp_path, long, slow_steps)
    os.kill(pid, getattr(signal, name))
    assert end_status(pid) == 128 + getattr(signal, name)
    run = check_kept(tmp_path, name, "note.ended_signal")
    assert (run.adapter / "adapter_model.safetensors").is_file()


def test_step_that_hangs_is_left_and_the_steps_before_are_kept(chosen, tmp_path):
    settings = chosen(lora={"dropout": 0.2}, train={"max_steps": 4})
    pid = start(tmp_path / "cut", settings, hanging_step)
    os.kill(pid, signal.SIGTERM)
    assert end_status(pid) == 128 + signal.SIGTERM
    run = check_kept(tmp_path / "cut", "SIGTERM", "note.ended_signal")
    [resumed] = [e for e in Workbench(tmp_path / "cut").resume(run.id) if e["kind"] == "done"]
    [whole] = [e for e in Workbench(tmp_path / "whole").tune(settings) if e["kind"] == "done"]
    assert resumed["result"]["loss"] == whole["result"]["loss"] and resumed["result"]["steps"] == 4


def test_the_step_that_is_named_is_the_one_in_the_checkpoint(long, tmp_path, monkeypatch):
    monkeypatch.setattr(ENDING, "cause", "")
    save = checkpoint.save

    def full(trainer, examples, path):
        if trainer.step > 2:
            raise OSError(28, "No space left on device", str(path))
        save(trainer, examples, path)

    monkeypatch.setattr(checkpoint, "save", full)
    workbench = Workbench(tmp_path)
    for event in workbench.tune(long.with_values({"train": {"save_every": 1}})):
        if event["kind"] == "step" and event["step"] == 4:
            ENDING.cause = "SIGTERM"
            workbench.stop.set()
    assert event["result"]["steps"] == 4
    check_kept(tmp_path, "SIGTERM", "note.ended_signal")


def test_second_signal_ends_at_once(chosen, tmp_path):
    def hanging_save():
        hanging_step()
        ending.SECOND_AFTER = 0.0
        checkpoint.save = lambda *args: time.sleep(600)

    pid = start(tmp_path, chosen(), hanging_save)
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.3)
    os.kill(pid, signal.SIGINT)
    assert end_status(pid) == 128 + signal.SIGINT
    assert runs.interrupted(tmp_path).id == runs.history(tmp_path)[0].id


def test_signal_outside_a_job_ends_the_process_as_usual():
    code = (
        "import time\nfrom playground.ending import ENDING\nwith ENDING.signals():\n print(flush=True); time.sleep(60)"
    )
    for name in SIGNALS:
        process = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stdout=-1, stderr=-1)
        process.stdout.readline()
        process.send_signal(getattr(signal, name))
        _, errors = process.communicate(timeout=WAIT)
        assert (process.returncode == 128 + getattr(signal, name)) or (name == "SIGINT" and b"KeyboardInt" in errors)


PARENT_CODE = """
import json, sys
from pathlib import Path
from playground.engine.client import Engine
from playground.settings import parse

engine = Engine(Path(sys.argv[1]))
for event in engine.tune(parse(json.loads(sys.argv[2]))).events():
    if event["kind"] == "step" and event["step"] >= 2:
        print(engine.pid, flush=True)
"""


def test_work_that_ends_while_it_is_asked_to_leaves_time_for_what_follows_it(tmp_path):
    pid = os.fork()
    if pid == 0:
        try:
            asked = threading.Event()
            with ENDING.signals():
                with ENDING.work(lambda cause: (asked.set(), time.sleep(0.3))):
                    (tmp_path / "waits").touch()
                    asked.wait()
                time.sleep(0.8)
                os._exit(7)
        finally:
            os._exit(99)
    wait_until((tmp_path / "waits").exists)
    os.kill(pid, signal.SIGTERM)
    assert end_status(pid) == 7


@pytest.mark.slow
def test_the_pages_temporary_folders_go_with_it_after_a_signal(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    app = SimpleNamespace(engine=Mock(), planner=Mock(), shared=None)
    pid = os.fork()
    if pid == 0:
        try:
            with ENDING.signals():
                app.shared = SharedPage(tmp_path / "runs")
                downloads.folder.cache_clear()
                downloads.place("ada", "cards")
                with page_ending.ending_in_order(app) as ended:
                    (tmp_path / "waits").touch()
                    ended.wait()
        finally:
            os._exit(99)
    wait_until((tmp_path / "waits").exists)
    assert len(list((tmp_path / "temporary").iterdir())) == 2
    os.kill(pid, signal.SIGTERM)
    assert end_status(pid) == 128 + signal.SIGTERM
    assert list((tmp_path / "temporary").iterdir()) == []


def test_killed_page_leaves_no_process_and_a_run_that_is_offered_again(long, tmp_path):
    import json

    command = [sys.executable, "-c", PARENT_CODE, str(tmp_path), json.dumps(long.to_dict())]
    parent = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    wait_until(lambda: not Path(f"/proc/{worker}").exists() if Path("/proc").is_dir() else runs.interrupted(tmp_path))
    run = check_kept(tmp_path, "parent", "note.ended_parent")
    assert runs.interrupted(tmp_path).id == run.id


def test_processes_that_end_together_name_the_step_that_is_kept(tmp_path, monkeypatch):
    """Of several processes, the main one finds the others gone and records the end by itself."""
    monkeypatch.setattr(ENDING, "cause", ending.PARENT)
    run = runs.create(tmp_path, "tune", Settings())
    context = job.JobContext(run, threading.Event(), Team("cpu"), PeakTracker("cpu"), lambda: None, keep=lambda: 7)
    context.team.size = 2

    def work():
        yield {"kind": "phase", "name": "train"}
        raise RuntimeError("Connection closed by peer")

    *_, kept, _, done = job.run_job(context, "tune", Settings().load, work())
    assert (kept["key"], kept["values"]) == ("note.ended_kept", {"step": 7}) and done["result"]["checkpoint"]


def test_nothing_is_recorded_after_the_end(tmp_path, monkeypatch):
    """A reading of memory that is late stays out of the record."""
    run = runs.create(tmp_path, "load", Settings())
    sinks = []
    monkeypatch.setattr(job.meter.Meter, "__init__", lambda meter, sink: sinks.append(sink))
    for name in ("take", "start", "stop"):
        monkeypatch.setattr(job.meter.Meter, name, lambda meter: None)
    context = job.JobContext(run, threading.Event(), Team("cpu"), PeakTracker("cpu"), lambda: None)
    with job._metered(context):
        sinks[0]({"rss": 1})
        list(job._recorded_end(context, "load", {}))
        sinks[0]({"rss": 2})
    *before, last = run.events()
    assert last["kind"] == "done" and 1 in [event.get("rss") for event in before]
