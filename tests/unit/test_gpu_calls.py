"""Jobs as calls of a ZeroGPU Space's GPU: how long they ask for, how they stop, what is said where there is no GPU.

`spaces` is a stand-in here; tests/api/test_zero_gpu.py has the real one.
"""

import sys
import threading
import types

import pytest

from playground import zero_gpu
from playground.catalog.cards import ZERO_GPU, is_zero_gpu
from playground.engine.client import Engine
from playground.errors import PlaygroundError
from playground.planning import client
from playground.settings import Settings
from playground.zero_gpu import StopFile, ZeroGpuEngine, asked_seconds, make_engine, without_compiling

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
    monkeypatch.setattr(zero_gpu, "predicted_seconds", lambda settings, root: None)
    return lent


@pytest.fixture
def engine(lent, tmp_path):
    return ZeroGpuEngine(tmp_path)


def test_only_on_a_zerogpu_space_jobs_are_calls(lent, tmp_path, monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert not is_zero_gpu() and type(make_engine(tmp_path)) is Engine
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert is_zero_gpu() and isinstance(make_engine(tmp_path), ZeroGpuEngine)
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
    job = ZeroGpuEngine(tmp_path).load(Settings())
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
    def call(do, arguments, root, stop, environment, seconds):
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
    monkeypatch.setattr(zero_gpu, "predicted_seconds", lambda settings, root: predicted)
    assert asked_seconds("tune", TUNE, "runs") == asked
    assert asked_seconds("chat", {}, "runs") == zero_gpu.SHORT_SECONDS


def test_settings_that_cannot_be_predicted_are_the_jobs_to_judge(tmp_path):
    settings = Settings().with_values({"load": {"model": str(tmp_path / "none")}})
    assert zero_gpu.predicted_seconds(settings, str(tmp_path)) is None


def test_nothing_is_compiled():
    settings = {"settings": {"train": {"compile": "on", "epochs": 2}, "load": {"bits": 4}}}
    assert without_compiling(settings) == {
        "settings": {"train": {"compile": "off", "epochs": 2}, "load": {"bits": 4}},
    }
    assert without_compiling({"run_id": "r"}) == {"run_id": "r"}
