"""Jobs as calls of a ZeroGPU Space's GPU: how long they ask for, how they stop, what is said where there is no GPU.

`spaces` is a stand-in here; tests/api/test_zero_gpu.py has the real one.
"""

import json
import os
import subprocess
import sys
import threading
import types
from typing import Any

import pytest
from toys import PROJECT

from playground import zero_gpu
from playground.catalog.cards import ZERO_GPU, is_zero_gpu
from playground.engine.client import Engine
from playground.errors import PlaygroundError
from playground.planning import client
from playground.settings import Settings
from playground.ui.shared_page import SharedPage
from playground.zero_gpu import StopFile, ZeroGpuEngine, asked_seconds, make_engine, without_compiling

NO_PLANNER: Any = None
TUNE = {"settings": Settings().to_dict()}


@pytest.fixture
def lent(monkeypatch):
    """What the stand-in's calls do, by the key "call"; it is asked for "seconds"."""
    lent: dict = {}

    def gpu(duration):
        def call(*arguments):
            lent["seconds"] = duration(*arguments)
            yield from lent["call"](*arguments)

        return lambda job: call

    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=gpu))
    monkeypatch.setattr(zero_gpu.GpuCalls, "_import_libraries", lambda calls: setattr(calls, "ready", {"cuda": True}))
    monkeypatch.setattr(zero_gpu, "predicted_seconds", lambda settings, root, planner: None)
    return lent


@pytest.fixture
def engine(lent, tmp_path):
    return ZeroGpuEngine(tmp_path, NO_PLANNER)


def test_only_on_a_zerogpu_space_jobs_are_calls(lent, tmp_path, monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert not is_zero_gpu() and type(make_engine(tmp_path, NO_PLANNER)) is Engine
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert is_zero_gpu() and isinstance(make_engine(tmp_path, NO_PLANNER), ZeroGpuEngine)
    assert client.this_machine.__wrapped__() == ZERO_GPU


def test_after_a_call_nothing_is_loaded(engine, lent):
    seen = []

    def call(*arguments):
        yield {"event": {"kind": "loaded", "model": "m", "bits": 4}}
        seen.append(engine.loaded["model"])
        yield {"result": {"rss": 1}}

    lent["call"] = call
    job = engine.load(Settings())
    assert job.wait(10) and job.error is None and seen == ["m"]
    assert engine.loaded is None and engine.memory["rss"] and engine.state == "ready"
    assert engine.unload() and lent["seconds"] == zero_gpu.SHORT_SECONDS


def test_a_job_waits_until_the_libraries_are_there(lent, tmp_path, monkeypatch):
    there, seen = threading.Event(), []
    monkeypatch.setattr(zero_gpu.GpuCalls, "_import_libraries", lambda calls: there.wait(10))
    lent["call"] = lambda *arguments: iter([seen.append(there.is_set()) or {"result": {}}])
    job = ZeroGpuEngine(tmp_path, NO_PLANNER).load(Settings())
    assert not job.wait(0.2) and seen == []
    there.set()
    assert job.wait(10) and seen == [True]


def test_an_error_of_the_job_keeps_its_sentences(engine, lent):
    error = PlaygroundError.from_dict({"problems": [{"key": "error.busy", "values": {}}]})
    lent["call"] = lambda *arguments: iter([{"error": error.to_dict()}])
    job = engine.load(Settings())
    assert job.wait(10) and [problem.key for problem in job.error.problems] == ["error.busy"]


def test_a_refused_or_lost_gpu_is_a_sentence_with_the_reason(engine, lent):
    def call(*arguments):
        yield {"event": {"kind": "progress"}}
        raise RuntimeError("GPU task aborted")

    lent["call"] = call
    job = engine.tune(Settings())
    assert job.wait(10)
    [problem] = job.error.problems
    assert problem.key == "error.zero_gpu" and problem.values == {"detail": "GPU task aborted"}
    lent["call"] = lambda *arguments: iter([{"result": {}}])
    assert engine.load(Settings()).wait(10) and engine.last.error is None


def test_a_job_is_asked_to_stop_and_no_other(engine, lent):
    def call(do, arguments, root, stop, environment, folder, seconds):
        stopping = StopFile(zero_gpu.Path(stop), 60)
        while not stopping.is_set():
            yield {"event": {"kind": "progress"}}
        yield {"result": {}}

    lent["call"] = call
    first = engine.load(Settings())
    assert not first.wait(0.1) and engine.stop_job(first) and first.wait(10) and first.error is None
    second = engine.load(Settings())
    assert not second.wait(0.1)
    engine.close()
    assert second.wait(10)


def test_a_job_stops_before_its_time_is_over(tmp_path):
    assert not StopFile(tmp_path / "stop", 60).is_set()
    assert StopFile(tmp_path / "stop", -1).is_set()


@pytest.mark.parametrize(
    "predicted,limit,asked",
    [(None, 900, zero_gpu.LONG_SECONDS), (1.0, 900, zero_gpu.SHORT_SECONDS), (60.0, 900, 228), (9999.0, 900, 900)],
)
def test_a_fine_tune_asks_for_its_predicted_seconds(monkeypatch, predicted, limit, asked):
    monkeypatch.setenv("PLAYGROUND_MAX_SECONDS", str(limit))
    monkeypatch.setattr(zero_gpu, "predicted_seconds", lambda settings, root, planner: predicted)
    assert asked_seconds("tune", TUNE, "runs", NO_PLANNER) == asked
    assert asked_seconds("chat", {}, "runs", NO_PLANNER) == zero_gpu.SHORT_SECONDS


def test_seconds_are_the_planners_and_what_it_refuses_is_the_jobs_to_say():
    asked = []

    def answer(do, **arguments):
        asked.append((do, arguments))
        if arguments["root"] == "none":
            raise PlaygroundError
        return {"seconds": 9.0}

    planner: Any = types.SimpleNamespace(ask=answer)
    assert zero_gpu.predicted_seconds({"load": {}}, "runs", planner) == 9.0
    assert asked == [("tune_summary", {"settings": {"load": {}}, "root": "runs"})]
    assert zero_gpu.predicted_seconds({}, "none", planner) is None


def test_a_visitors_job_sees_no_folder_of_the_program_and_no_token_of_its_owner(tmp_path):
    token, place = tmp_path / "token", tmp_path / "empty"
    token.write_text("hf_owner")
    place.mkdir()
    shared = SharedPage(tmp_path)
    code = """
import json, sys
from huggingface_hub import constants, get_token  # imported before, as the page has it
constants.HF_TOKEN_PATH = sys.argv[1]
assert get_token() == "hf_owner"
from playground.ui.shared_page import SharedPage
from playground.zero_gpu import enter
enter(json.loads(sys.argv[2]), sys.argv[3])
import os
assert get_token() is None and constants.HF_HUB_DISABLE_IMPLICIT_TOKEN and os.listdir() == []
assert os.environ["PLAYGROUND_SHARED"] == "1"
"""
    command = [sys.executable, "-c", code, str(token), json.dumps(shared.environment), str(place)]
    quiet = {name: value for name, value in os.environ.items() if "TOKEN" not in name}
    done = subprocess.run(command, cwd=PROJECT, env=quiet, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_nothing_is_compiled():
    settings = {"settings": {"train": {"compile": "on", "epochs": 2}, "load": {"bits": 4}}}
    assert without_compiling(settings) == {
        "settings": {"train": {"compile": "off", "epochs": 2}, "load": {"bits": 4}},
    }
    assert without_compiling({"run_id": "r"}) == {"run_id": "r"}
