"""The engine: jobs in its worker process, the worker's death, and messages that come too late."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
from toys import keys

from playground import runs
from playground.engine.client import Engine
from playground.errors import PlaygroundError
from playground.job import Job
from playground.jsonl_process import Connection
from playground.settings import Generation, Settings

LONG = {"train": {"max_steps": 100_000}}
QUESTION = {"base": [{"instruction": "What?", "answer": None}]}
WAIT = 60  # seconds at most, for any state

STUB = """
import json, os, sys, time
from pathlib import Path

folder = Path(sys.argv[1])

def send(**message):
    print(json.dumps(message), flush=True)

send(ready={"cuda": False, "pid": os.getpid()})
if (folder / "stray").exists():
    print((folder / "stray").read_text(), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    send(id=request["id"], event={"kind": "opened", "run": f"run-of-{os.getpid()}"})
    while not (folder / "finish").exists():
        time.sleep(0.01)
    for event in json.loads((folder / "events").read_text()) if (folder / "events").exists() else []:
        send(id=request["id"], event=event)
    result = json.loads((folder / "result").read_text()) if (folder / "result").exists() else {"pid": os.getpid()}
    send(id=request["id"], event={"kind": "done", "result": result})
    send(id=request["id"], result=None)
"""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "the state never came"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = Engine(tmp_path_factory.mktemp("engine") / "runs")
    yield engine
    engine.close()


def _result(job) -> dict:
    return list(job.events())[-1]["result"]


def _first(job, kind: str) -> dict:
    return next(e for e in job.events() if e["kind"] == kind)


@pytest.mark.slow
def test_job_starts_the_worker_and_returns_its_result(engine, chosen):
    assert engine.state == "off"
    job = engine.load(chosen())
    assert engine.state == "busy"
    result = _result(job)
    assert result["parts"]["weights"] > 0 and engine.state == "ready" and engine.cuda is False
    assert result["run"] == engine.run == job.run


def test_two_readers_get_the_same_events_of_one_job(engine, chosen):
    job = engine.chat(chosen(), None, QUESTION, Generation(max_new_tokens=12))
    assert list(job.events()) == list(job.events())
    assert [e for e in job.latest() if e["kind"] != "answer"] == [e for e in job.events() if e["kind"] != "answer"]


def test_second_job_is_refused_while_one_runs_and_stop_ends_that_one(engine, chosen):
    job = engine.tune(chosen(**LONG))
    _first(job, "step")
    with pytest.raises(PlaygroundError) as caught:
        engine.load(chosen())
    assert keys(caught) == ["error.busy"]
    engine.stop()
    assert _result(job)["stopped"] and engine.state == "ready"


def test_stop_of_a_chat_leaves_a_fine_tune_running(engine, chosen):
    chat = engine.chat(chosen(), None, QUESTION, Generation(max_new_tokens=4))
    assert _result(chat)["sides"]["base"]["tokens"] <= 4
    job = engine.tune(chosen(**LONG))
    first = _first(job, "step")["step"]
    assert not engine.stop("chat") and not engine.stop_job(chat)
    assert next(e for e in job.events() if e["kind"] == "step" and e["step"] > first + 20)
    assert engine.stop("tune") and _result(job)["stopped"] and not engine.stop("tune")


@pytest.mark.slow
def test_stopped_fine_tune_resumes_in_its_own_run(engine, chosen):
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


def test_stop_after_a_job_does_not_stop_the_next(engine, chosen):
    engine.stop()
    assert _result(engine.tune(chosen()))["steps"] == 3


def test_stop_of_another_kind_leaves_the_job_alone(engine, chosen):
    job = engine.tune(chosen(**LONG))
    _first(job, "step")
    engine.stop("chat")
    assert not engine.stopping and not job.stopping
    engine.stop("tune")
    assert engine.stopping
    result = _result(job)
    assert result["stopped"] and not engine.stopping and job.stopping
    assert 0 < result["steps"] < result["total_steps"] == 100_000
    assert result["checkpoint"] and os.path.isdir(result["adapter"])


def test_loaded_is_true_at_every_moment(engine, chosen, toy):
    engine.close()
    assert engine.loaded is None and engine.memory is None
    first, second = chosen(), chosen(load={"model": str(toy("gpt2"))})
    job = engine.tune(first)
    assert engine.loaded is None
    job.wait()
    assert engine.loaded == {"model": first.load.model, "bits": 32, "run": job.run, "root": engine.root}
    engine.chat(first, job.run, QUESTION, Generation(max_new_tokens=2)).wait()
    assert engine.loaded["run"] == job.run  # it wasn't loaded again
    failed = engine.load(chosen(load={"model": "/nowhere/at/all"}))
    failed.wait()
    assert failed.error and engine.loaded is None
    loading = engine.load(second)
    loading.wait()
    assert engine.loaded == {"model": second.load.model, "bits": 32, "run": loading.run, "root": engine.root}
    os.kill(engine.pid, signal.SIGKILL)
    wait_until(lambda: engine.state == "off")
    assert engine.loaded is None and engine.memory is None


@pytest.mark.slow
def test_unload_returns_the_memory_and_keeps_the_worker(engine, chosen, toy):
    model = toy("llama", hidden_size=1024, intermediate_size=4096, num_hidden_layers=4)
    engine.load(chosen(load={"model": str(model)})).wait()
    pid, before, held = engine.pid, engine.memory["rss"], engine.last.result["parts"]["weights"]
    assert engine.unload() and engine.loaded is None and engine.pid == pid and engine.state == "ready"
    assert held > 2**27 and before - engine.memory["rss"] > 0.9 * held
    assert engine.last.do == "unload" and engine.last.result["held"] == held
    assert _result(engine.tune(chosen()))["steps"] == 3


@pytest.mark.slow
def test_unload_stops_the_job_under_way_first(engine, chosen):
    job = engine.tune(chosen(**LONG))
    _first(job, "step")
    assert engine.unload() and job.ended and job.result["stopped"] and job.result["adapter"]
    assert engine.loaded is None and engine.state == "ready"


@pytest.mark.parametrize("freed,stays", [(2**30, True), (2**29, False)])
def test_worker_that_does_not_return_the_memory_is_replaced(stub_engine, freed, stays):
    (stub_engine.root / "result").write_text(json.dumps({"held": 2**30, "freed": freed}))
    (stub_engine.root / "finish").touch()
    assert stub_engine.unload() is False and stub_engine.state == "off"  # nothing to unload
    stub_engine.start()
    pid = stub_engine.pid
    assert stub_engine.unload() is stays and (stub_engine.pid == pid) is stays
    assert stub_engine.state in ("starting", "ready")


def test_worker_whose_job_does_not_stop_is_replaced(stub_engine, monkeypatch):
    monkeypatch.setattr("playground.engine.client.STOP_SECONDS", 0.1)
    monkeypatch.setattr(stub_engine, "close", partial(stub_engine.close, seconds=0.1))
    job = stub_engine.load(Settings())
    wait_until(lambda: job.run is not None)
    pid = stub_engine.pid
    assert not stub_engine.unload() and job.ended and stub_engine.pid != pid and stub_engine.state != "off"


def test_model_is_not_loaded_any_more_while_another_is_loading(stub_engine):
    (stub_engine.root / "events").write_text(
        json.dumps([{"kind": "loaded", "model": "one", "bits": 4}, {"kind": "unloaded"}])
    )
    job, seen = stub_engine.load(Settings()), []
    take_in = stub_engine._take_in

    def note(*arguments):
        take_in(*arguments)
        seen.append(stub_engine.loaded)

    stub_engine._take_in = note
    (stub_engine.root / "finish").touch()
    job.wait()
    assert seen[-3:] == [{"model": "one", "bits": 4, "run": job.run, "root": stub_engine.root}, None, None]


def test_invalid_settings_fail_the_job_with_every_problem(engine):
    job = engine.tune(Settings().with_values({"lora": {"r": 0}, "train": {"max_seq_length": 0}}))
    with pytest.raises(PlaygroundError) as caught:
        list(job.events())
    assert keys(caught) == ["problem.r", "problem.max_seq_length"]


@pytest.mark.slow
def test_killed_worker_fails_its_job_and_its_run_and_is_replaced(engine, chosen):
    job = engine.tune(chosen(**LONG))
    _first(job, "step")
    killed = engine.pid
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(PlaygroundError) as caught:
        list(job.events())
    assert keys(caught) == ["error.engine_killed"] and engine.job is None
    events = list(runs.find(engine.root, job.run).events())
    assert (events[-1]["kind"], events[-1]["problems"][0]["key"]) == ("error", "error.engine_killed")
    assert runs.history(engine.root)[0].state == "failed"
    assert _result(engine.tune(chosen()))["steps"] == 3 and engine.pid != killed


@pytest.mark.slow
def test_worker_killed_while_idle_is_replaced_by_the_next_job(engine, chosen):
    os.kill(engine.pid, signal.SIGTERM)
    wait_until(lambda: engine.state == "off")
    assert _result(engine.load(chosen()))["run"]


def test_close_ends_the_worker_and_its_job(engine, chosen):
    job = engine.tune(chosen(**LONG))
    _first(job, "step")
    engine.close()
    assert engine.state == "off" and job.ended
    result = _result(job)
    assert result["stopped"] and result["checkpoint"] and result["ended_by"] == "parent"
    with pytest.raises(ProcessLookupError):
        os.kill(engine.pid, 0)
    engine.close()


def test_worker_ends_with_the_page(engine):
    engine.close()
    engine.start()
    assert engine.state == "starting" and engine.cuda is None
    connection = engine._connection
    connection.close_input()
    assert connection.wait(WAIT) == 0 and engine.state == "off"


@pytest.fixture
def held_reader(monkeypatch):
    """The first connection's reader starts only once this is set, as a busy machine might let it."""
    may_read, read, connections = threading.Event(), Connection._read, []

    def read_late(self):
        connections.append(self)
        if self is connections[0]:
            assert may_read.wait(WAIT)
        read(self)

    monkeypatch.setattr(Connection, "_read", read_late)
    return may_read


@pytest.fixture
def stub_engine(tmp_path):
    engine = Engine(tmp_path / "runs", (sys.executable, "-c", STUB))
    engine.root.mkdir()
    yield engine
    engine.close(seconds=0.1)  # a stub has nothing to keep, and doesn't end while its job goes on


def test_stop_of_a_chat_never_reaches_the_job_after_it(stub_engine, monkeypatch):
    """The chat ends, and a fine-tune begins, between the click and the moment at which the engine can look."""
    cancelled: list[int] = []
    monkeypatch.setattr(Connection, "cancel", lambda self, request_id: cancelled.append(request_id))
    chat, answers = stub_engine.chat(Settings(), None, QUESTION, Generation()), []
    wait_until(lambda: chat.run is not None)
    with stub_engine._lock:
        click = threading.Thread(target=lambda: answers.append(stub_engine.stop("chat")))
        click.start()
        click.join(0.2)
        stub_engine._job = None
        stub_engine.tune(Settings())
    click.join(WAIT)
    assert answers == [False] and cancelled == []


def _replace_idle_worker(engine: Engine) -> tuple[Connection, Job]:
    """Kill the idle worker and submit a job before the death is noticed: the dead one's connection, and the job."""
    dead = engine._connection
    os.kill(dead.pid, signal.SIGKILL)
    wait_until(lambda: not dead.alive)
    job = engine.load(Settings())
    wait_until(lambda: job.run is not None)
    assert engine.pid != dead.pid
    return dead, job


def test_idle_workers_death_noticed_late_does_not_end_the_next_job(stub_engine, held_reader):
    stub_engine.start()
    dead, job = _replace_idle_worker(stub_engine)
    held_reader.set()
    assert dead.wait(WAIT) == -signal.SIGKILL
    assert not job.ended and stub_engine.job is job and stub_engine.state == "busy"
    (stub_engine.root / "finish").touch()
    assert _result(job) == {"pid": stub_engine.pid} and stub_engine.state == "ready"


def test_late_lines_of_a_dead_worker_do_not_reach_the_next_job(stub_engine, held_reader, caplog):
    lines = [
        {"id": 1, "event": {"kind": "opened", "run": "late"}},
        {"id": 1, "result": None},
        {"id": 2, "result": None},
    ]
    text = "\n".join(["not JSON", *map(json.dumps, lines)])
    (stub_engine.root / "stray").write_text(text)
    stub_engine.start()
    wait_until(lambda: _bytes_waiting(stub_engine._connection) > len(text))
    (stub_engine.root / "stray").unlink()
    dead, job = _replace_idle_worker(stub_engine)
    held_reader.set()
    assert dead.wait(WAIT) == -signal.SIGKILL
    assert not job.ended and job.run == stub_engine.run == f"run-of-{stub_engine.pid}"
    assert sum("can't be handled" in record.getMessage() for record in caplog.records) == 1 + len(lines)
    (stub_engine.root / "finish").touch()
    assert [event["kind"] for event in job.events()] == ["opened", "done"]


def test_lines_after_a_job_do_not_kill_the_reader(stub_engine, caplog):
    (stub_engine.root / "finish").touch()
    (stub_engine.root / "stray").write_text('not JSON\n{"id": 7, "event": {"kind": "step"}}\n{"event": {}}\n[]')
    for _ in range(2):
        assert _result(stub_engine.load(Settings())) == {"pid": stub_engine.pid}
    assert sum("can't be handled" in record.getMessage() for record in caplog.records) == 4


def _bytes_waiting(connection: Connection) -> int:
    """Bytes that the worker has written and nobody has read."""
    import array
    import fcntl
    import termios

    count = array.array("i", [0])
    fcntl.ioctl(connection._process.stdout, termios.FIONREAD, count)
    return count[0]


def test_engine_tells_what_run_its_job_writes_to_even_before_that_is_opened(stub_engine):
    job = stub_engine.resume("resumed")
    assert stub_engine.writes_to("resumed") and not stub_engine.writes_to("another")
    wait_until(lambda: job.run is not None)
    assert stub_engine.writes_to(job.run)
    (stub_engine.root / "finish").write_text("")
    wait_until(lambda: job.ended)
    assert not stub_engine.writes_to(job.run) and not stub_engine.writes_to("resumed")
