"""The engine with its real worker process: jobs, death, disconnection."""

import os
import signal
import time

import pytest
from toys import keys

from playground import runs
from playground.engine.client import Engine
from playground.errors import PlaygroundError
from playground.settings import Generation, Settings

LONG = {"train": {"max_steps": 100_000}}
ASK = {"base": [{"instruction": "What?", "answer": None}]}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = Engine(tmp_path_factory.mktemp("engine") / "runs")
    yield engine
    engine.close()


def _result(job) -> dict:
    return list(job.events())[-1]["result"]


def _first(job, kind: str) -> dict:
    return next(e for e in job.events() if e["kind"] == kind)


def test_a_job_starts_the_worker_and_brings_its_result(engine, chosen):
    assert engine.state == "off"
    job = engine.load(chosen())
    assert engine.state == "busy"
    result = _result(job)
    assert result["parts"]["weights"] > 0 and engine.state == "ready" and engine.cuda is False
    assert result["run"] == engine.run == job.run


def test_two_readers_hear_the_same_of_one_job(engine, chosen):
    job = engine.chat(chosen(), None, ASK, Generation(max_new_tokens=12))
    assert list(job.events()) == list(job.events())
    assert [e for e in job.latest() if e["kind"] != "answer"] == [e for e in job.events() if e["kind"] != "answer"]


def test_a_second_job_is_refused_while_one_runs_and_stop_ends_that_one(engine, chosen):
    job = engine.tune(chosen(**LONG))
    _first(job, "step")
    with pytest.raises(PlaygroundError) as caught:
        engine.load(chosen())
    assert keys(caught) == ["error.busy"]
    engine.stop()
    assert _result(job)["stopped"] and engine.state == "ready"


def test_a_stopped_fine_tune_is_resumed_in_its_own_run(engine, chosen):
    stopped = engine.tune(chosen(train={"max_steps": 60}))
    _first(stopped, "step")
    engine.stop()
    assert _result(stopped)["stopped"]
    job = engine.resume(stopped.run)
    result = _result(job)
    assert (result["steps"], result["stopped"], job.run) == (60, False, stopped.run) and job.result == result
    assert {e["key"] for e in job.events() if e["kind"] == "note"} >= {"note.resumed"}
    assert runs.history(engine.root)[0].state == "done"
    with pytest.raises(PlaygroundError) as caught:
        list(engine.resume(stopped.run).events())
    assert keys(caught) == ["error.no_checkpoint"] and engine.state == "ready"


def test_a_stop_that_comes_after_a_job_does_not_touch_the_next(engine, chosen):
    engine.stop()
    assert _result(engine.tune(chosen()))["steps"] == 3


def test_bad_settings_end_the_job_with_all_that_is_wrong(engine):
    job = engine.tune(Settings().with_values({"lora": {"r": 0}, "train": {"max_seq_length": 0}}))
    with pytest.raises(PlaygroundError) as caught:
        list(job.events())
    assert keys(caught) == ["problem.r", "problem.max_seq_length"]


def test_a_killed_worker_is_told_written_into_its_run_and_replaced(engine, chosen):
    job = engine.tune(chosen(**LONG))
    _first(job, "step")
    dead = engine._process.pid
    os.kill(dead, signal.SIGKILL)
    with pytest.raises(PlaygroundError) as caught:
        list(job.events())
    assert keys(caught) == ["error.engine_killed"] and engine.job is None
    events = list(runs.find(engine.root, job.run).events())
    assert (events[-1]["kind"], events[-1]["problems"][0]["key"]) == ("error", "error.engine_killed")
    assert runs.history(engine.root)[0].state == "failed"
    assert _result(engine.tune(chosen()))["steps"] == 3 and engine._process.pid != dead


def test_a_worker_killed_while_idle_is_replaced_by_the_next_job(engine, chosen):
    os.kill(engine._process.pid, signal.SIGTERM)
    engine._process.wait(20)
    assert engine.state == "off"
    assert _result(engine.load(chosen()))["run"]


def test_closing_ends_the_worker_and_says_so_to_its_job(engine, chosen):
    job = engine.tune(chosen(**LONG))
    _first(job, "step")
    process = engine._process
    engine.close()
    with pytest.raises(PlaygroundError) as caught:
        list(job.events())
    assert keys(caught) == ["error.engine_closed"]
    assert process.poll() is not None and engine.state == "off"
    engine.close()


def test_a_worker_whose_page_is_gone_ends_by_itself(engine):
    engine.start()
    process = engine._process
    process.stdin.close()
    assert process.wait(30) == 0
    until = time.time() + 5
    while engine.state != "off" and time.time() < until:
        time.sleep(0.02)
    assert engine.state == "off"
