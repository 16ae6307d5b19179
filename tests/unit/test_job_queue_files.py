"""The queue on disk: it outlives a program, two programs share it, and damaged files cost nothing but themselves."""

import json
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from filelock import FileLock
from toys import PROJECT, keys

from playground import runs
from playground.__main__ import main
from playground.errors import PlaygroundError, problem
from playground.export.order import ExportOrder, parse_order
from playground.job import Job
from playground.jobs import owner, store
from playground.jobs.owner import Owner
from playground.jobs.runner import Runner, next_job, stop
from playground.jobs.store import QueuedJob
from playground.settings import Settings
from playground.ui import queue_view

WAIT = 20  # seconds at most, for any state
HOLDER = """
import sys, time
from pathlib import Path
from playground.jobs import store
from playground.jobs.owner import Owner
root = Path(sys.argv[1])
hold = Owner(root); hold.take()
[job] = store.add(root, [store.QueuedJob("tune")])
store.change(root, job.id, state="running")
print("held", flush=True)
time.sleep(600)
"""


class _Engine:
    """A fake engine: what matters here is the queue. Jobs end when `end` is called, or at once with `results`."""

    state = "ready"

    def __init__(self, *results):
        self.results, self.started, self.job = list(results), [], None

    def tune(self, settings):
        return self._start(Job("tune"), settings.lora.r)

    def chat(self, settings, adapter, sides, generation):
        return self._start(Job("chat"), (adapter, sides["tuned"][0]["instruction"]))

    def resume(self, run):
        return self._start(Job("tune", resumes=run), run)

    def export(self, order, token=""):
        return self._start(Job("export"), (parse_order(order), token))

    def stop_job(self, job):
        job.stopping = True
        job.add({"kind": "done", "result": {"stopped": True}})
        job.end(None)

    def _start(self, job, what):
        self.started.append(what)
        self.job = job
        job.add({"kind": "opened", "run": f"run-{len(self.started)}"})
        if self.results:
            result = self.results.pop(0)
            if isinstance(result, PlaygroundError):
                job.end(result)
            else:
                job.add({"kind": "done", "result": result})
                job.end(None)
        return job


def _tune(r=8, **values):
    return QueuedJob("tune", {"lora": {"r": r}}, **values)


def _states(root):
    return [job.state for job in store.listing(root).jobs]


def _until(condition):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "the state never came"
        time.sleep(0.02)


def test_jobs_are_worked_off_in_their_order_and_a_failed_one_stops_nothing(tmp_path):
    engine = _Engine({}, problem("error.no_run", run="x"), {})
    jobs = store.add(tmp_path, [_tune(1), _tune(2), _tune(3)])
    store.move(tmp_path, jobs[2].id, -1)
    Runner(tmp_path, engine).work()
    assert engine.started == [1, 3, 2] and _states(tmp_path) == ["done", "failed", "done"]
    jobs = store.listing(tmp_path).jobs
    assert [job.run for job in jobs] == ["run-1", "run-2", "run-3"]
    assert jobs[1].error["problems"][0]["key"] == "error.no_run"


def test_an_export_orders_the_run_of_the_job_before_it_as_the_page_does(tmp_path):
    made = runs.create(tmp_path, "tune", Settings())
    store.add(tmp_path, [QueuedJob("export", options={"to": "gguf"}, uses=made.id)])
    engine = _Engine({})
    Runner(tmp_path, engine).work()
    assert engine.started == [(ExportOrder(made.id, "gguf"), "")] and _states(tmp_path) == ["done"]


def test_waiting_jobs_of_an_earlier_program_wait_for_go_on(tmp_path):
    store.add(tmp_path, [_tune(1)])
    engine = _Engine({}, {})
    runner = Runner(tmp_path, engine)
    runner.start_after(lambda: store.add(tmp_path, [_tune(2)]))
    time.sleep(0.5)
    assert not runner.going and not runner.has_worked and engine.started == []
    runner.go_on()
    _until(lambda: _states(tmp_path) == ["done", "done"] and not runner.going)
    runner.start_after(lambda: store.add(tmp_path, [_tune(3)]))  # nobody left one waiting
    _until(lambda: engine.started == [1, 2, 3])
    runner.pause()


def test_a_job_whose_program_was_killed_is_interrupted_and_the_lock_is_lost(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    owner.mark_interrupted(tmp_path)
    assert _states(tmp_path) == ["running"] and owner.other_program(tmp_path)["pid"] == str(holder.pid)
    with pytest.raises(PlaygroundError, match=str(holder.pid)):
        Runner(tmp_path, _Engine()).go_on()
    holder.kill()
    holder.wait()
    owner.mark_interrupted(tmp_path)
    assert _states(tmp_path) == ["interrupted"] and owner.other_program(tmp_path) is None


def test_a_clock_that_goes_backwards_changes_neither_order_nor_owner(tmp_path, monkeypatch):
    first = store.add(tmp_path, [_tune(1)])[0]
    held = Owner(tmp_path)
    held.take()
    monkeypatch.setattr(time, "time", lambda: 1.0)
    second = store.add(tmp_path, [_tune(2)])[0]
    assert [job.id for job in store.listing(tmp_path).jobs] == [first.id, second.id]
    with pytest.raises(PlaygroundError):
        Owner(tmp_path).take()
    held.release()


def test_damaged_files_are_named_and_skipped(tmp_path):
    good = store.add(tmp_path, [_tune()])[0]
    folder = tmp_path / store.FOLDER
    text = (folder / f"{good.id}.json").read_text()
    damaged = {
        "aaaaaaaaaaaa.json": text[:40],
        "bbbbbbbbbbbb.json": text,  # a copy: its id is another's
        "cccccccccccc.json": "[" * 100_000,
        "dddddddddddd.json": text.replace(good.id, "d" * 12).replace('"waiting"', '"asleep"'),
        "eeeeeeeeeeee.json": text.replace(good.id, "e" * 12).replace('"order": 1.0', '"order": NaN'),
        "ffffffffffff.json": text.replace(good.id, "f" * 12).replace('"schema": 1', '"schema": 9'),
        'quote"😀.json': "{}",
    }
    for name, content in damaged.items():
        (folder / name).write_text(content)
    found = store.listing(tmp_path)
    assert [job.id for job in found.jobs] == [good.id] and set(found.damaged) == set(damaged)
    store.clear(tmp_path)
    assert store.listing(tmp_path).damaged == () and len(store.listing(tmp_path).jobs) == 1


def test_a_full_disk_leaves_the_queue_as_it_was(tmp_path, monkeypatch):
    good = store.add(tmp_path, [_tune()])[0]
    written = store.Path.write_bytes

    def full(path, content):
        written(path, content[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.Path, "write_bytes", full)
    with pytest.raises(OSError):
        store.add(tmp_path, [_tune(), _tune()])
    with pytest.raises(OSError):
        store.change(tmp_path, good.id, state="running")
    assert store.listing(tmp_path).jobs == (good,) and not list((tmp_path / store.FOLDER).glob(".*.partial"))


def test_a_full_disk_leaves_the_queue_to_others(tmp_path, monkeypatch):
    hold = Owner(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(owner.Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(OSError):
            hold.take()
    assert not hold.held and owner.other_program(tmp_path) is None
    Owner(tmp_path).take()


@pytest.mark.parametrize("lock", ["queue", "run"])
def test_who_only_looks_whether_a_lock_is_held_refuses_nobody(tmp_path, lock):
    run = runs.create(tmp_path, "tune", Settings())
    path = tmp_path / (f".locks/{run.id}.lock" if lock == "run" else f"{store.FOLDER}/owner.lock")
    path.parent.mkdir(exist_ok=True)
    look = FileLock(path, thread_local=False)
    look.acquire()
    threading.Timer(0.05, look.release).start()
    if lock == "run":
        with runs.locked(run):
            pass
    else:
        Owner(tmp_path).take()


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a/b", "😀" * 300, "x" * 300, None])
def test_ids_from_outside_reach_no_file(tmp_path, name):
    for act in (store.read, store.remove, store.again, stop):
        with pytest.raises(PlaygroundError):
            act(tmp_path, name)
    with pytest.raises(PlaygroundError):
        store.move(tmp_path, name, 1)


def test_stopping_one_goes_on_with_the_next_and_stopping_all_leaves_the_rest_waiting(tmp_path):
    engine = _Engine()
    jobs = store.add(tmp_path, [_tune(1), _tune(2), _tune(3)])
    runner = Runner(tmp_path, engine)
    runner.go_on()
    _until(lambda: _states(tmp_path)[0] == "running")
    stop(tmp_path, jobs[0].id)
    _until(lambda: _states(tmp_path)[:2] == ["stopped", "running"])
    stop(tmp_path, jobs[1].id, "all")
    _until(lambda: not runner.going)
    assert _states(tmp_path) == ["stopped", "stopped", "waiting"] and engine.started == [1, 2]


def test_a_stop_from_outside_the_queue_pauses_it(tmp_path):
    store.add(tmp_path, [_tune(1), _tune(2)])
    engine = _Engine({"stopped": True}, {})
    Runner(tmp_path, engine).work()
    assert _states(tmp_path) == ["stopped", "waiting"] and engine.started == [1]


def test_a_job_that_is_stopped_before_its_turn_pauses_the_queue_unless_it_alone_was_meant(tmp_path):
    store.add(tmp_path, [_tune(1), _tune(2)])
    Runner(tmp_path, _Engine(problem("shared.left_line"), {})).work()
    assert _states(tmp_path) == ["stopped", "waiting"] and not store.listing(tmp_path).jobs[0].error
    engine = _Engine()
    engine.stop_job = lambda job: (setattr(job, "stopping", True), job.end(problem("shared.left_line")))
    runner = Runner(tmp_path, engine)
    store.add(tmp_path, [_tune(3)])
    runner.go_on()
    _until(lambda: _states(tmp_path)[1] == "running")
    stop(tmp_path, store.listing(tmp_path).jobs[1].id)
    _until(lambda: _states(tmp_path) == ["stopped", "stopped", "running"])
    engine.results.append({})
    engine.stop_job(engine.job)
    _until(lambda: not runner.going)


def test_a_job_that_fails_as_it_stops_pauses_the_queue(tmp_path):
    store.add(tmp_path, [_tune(1), _tune(2)])
    engine = _Engine()
    runner = Runner(tmp_path, engine)
    runner.go_on()
    _until(lambda: _states(tmp_path)[0] == "running")
    engine.job.stopping = True
    engine.job.end(problem("error.engine_closed"))
    _until(lambda: not runner.going)
    assert _states(tmp_path) == ["interrupted", "waiting"] and store.listing(tmp_path).jobs[0].error


@pytest.mark.parametrize("when", ["before its run is recorded", "before it is recorded as running"])
def test_a_job_whose_file_is_removed_by_hand_goes_on_and_so_does_the_queue(tmp_path, monkeypatch, when):
    first, second = store.add(tmp_path, [_tune(1), _tune(2)])
    engine, change = _Engine(), store.change

    def removing(root, job_id, **values):
        if job_id == first.id and ("run" if when == "before its run is recorded" else "state") in values:
            (root / store.FOLDER / f"{job_id}.json").unlink(missing_ok=True)
        return change(root, job_id, **values)

    monkeypatch.setattr(store, "change", removing)
    runner = Runner(tmp_path, engine)
    runner.go_on()
    _until(lambda: not (tmp_path / store.FOLDER / f"{first.id}.json").exists())
    time.sleep(0.5)
    assert engine.started == [1] and not engine.job.stopping
    engine.results.append({})
    engine.job.end(None)
    _until(lambda: not runner.going)
    assert engine.started == [1, 2] and runner.error is None and store.read(tmp_path, second.id).state == "done"


def test_a_job_waits_while_the_engine_is_busy_or_another_has_it_next(tmp_path):
    engine, blocked = _Engine({}), threading.Event()
    blocked.set()
    store.add(tmp_path, [_tune(1)])
    runner = Runner(tmp_path, engine, blocked.is_set)
    runner.go_on()
    time.sleep(0.5)
    assert engine.started == [] and runner.going
    blocked.clear()
    _until(lambda: _states(tmp_path) == ["done"])


def test_a_follower_uses_the_run_of_the_job_before_or_fails_without_one(tmp_path):
    one = _tune(1)
    after = QueuedJob("compare", options={"question": "?"}, after=one.id)
    lost = QueuedJob("compare", after="0" * 12)
    store.add(tmp_path, [after, one, lost])
    assert next_job(store.listing(tmp_path)).id == one.id
    (tmp_path / "run-1" / "adapter").mkdir(parents=True)
    (tmp_path / "run-1" / "events.jsonl").write_text("")
    (tmp_path / "run-1" / "settings.json").write_text('{"load": {"model": "toy"}}')
    engine = _Engine({}, {})
    Runner(tmp_path, engine).work()
    assert engine.started == [1, ("run-1", "?")]
    assert store.read(tmp_path, lost.id).error["problems"][0]["key"] == "error.queue_before"


def test_removing_a_job_takes_what_waits_for_its_run_along_unless_the_run_is_there(tmp_path):
    one, two = _tune(1), _tune(2)
    store.add(tmp_path, [one, QueuedJob("compare", after=one.id), two, QueuedJob("compare", after=two.id)])
    store.change(tmp_path, two.id, state="done", run="run-2")
    store.remove(tmp_path, one.id)
    store.remove(tmp_path, two.id)
    [left] = store.listing(tmp_path).jobs
    assert (left.uses, left.after) == ("run-2", "")
    store.change(tmp_path, left.id, state="running")
    with pytest.raises(PlaygroundError):
        store.remove(tmp_path, left.id)


def test_an_interrupted_job_resumes_its_run(tmp_path):
    [job] = store.add(tmp_path, [_tune(1)])
    store.change(tmp_path, job.id, state="interrupted", run="run-9")
    store.again(tmp_path, job.id, resume=True)
    engine = _Engine({})
    Runner(tmp_path, engine).work()
    assert engine.started == ["run-9"] and _states(tmp_path) == ["done"]


@pytest.mark.parametrize("resume", [True, False])
def test_what_used_a_run_is_done_again_once_the_run_goes_on(tmp_path, resume):
    made = runs.create(tmp_path, "tune", Settings())
    (tmp_path / made.id / "adapter").mkdir()
    tune, other = _tune(1), _tune(2)
    compare, export = QueuedJob("compare", after=tune.id), QueuedJob("export", after=tune.id)
    store.add(tmp_path, [tune, compare, export, other, QueuedJob("compare", after=other.id)])
    for job in store.listing(tmp_path).jobs:
        store.change(
            tmp_path, job.id, state="done", run=made.id, result={"tuned": "half-trained"}, began=1.0, ended=2.0
        )
    store.change(tmp_path, tune.id, state="stopped")
    store.again(tmp_path, tune.id, resume)
    assert _states(tmp_path) == ["waiting"] * 3 + ["done"] * 2
    assert [job.result for job in store.listing(tmp_path).jobs[:3]] == [{}] * 3
    store.change(tmp_path, tune.id, state="done", run=made.id)
    engine = _Engine({}, {})
    Runner(tmp_path, engine).work()
    assert engine.started == [(made.id, ""), (ExportOrder(made.id, force=True), "")]  # the earlier file is replaced


@pytest.mark.parametrize("action", ["resume", "again"])
def test_what_is_done_again_with_a_run_counts_for_a_visitors_waiting_jobs(tmp_path, action):
    tune = _tune(1)
    made = runs.create(tmp_path, "tune", Settings())
    (made.folder / "checkpoint.pt").touch()
    store.add(tmp_path, [tune, QueuedJob("compare", after=tune.id)])
    for job, state in zip(store.listing(tmp_path).jobs, ("stopped", "done")):
        store.change(tmp_path, job.id, state=state, run=made.id)
    store.add(tmp_path, [_tune(number + 2) for number in range(queue_view.MOST_WAITING_PUBLIC - 1)])
    page = SimpleNamespace(root=tmp_path, private=False, jobs=Runner(tmp_path, _Engine()))
    with pytest.raises(PlaygroundError) as refused:
        queue_view.ACTIONS[action](page, tune.id)
    assert keys(refused) == ["error.queue_full"] and _states(tmp_path)[:2] == ["stopped", "done"]
    store.remove(tmp_path, store.listing(tmp_path).jobs[-1].id)
    queue_view.ACTIONS[action](page, tune.id)
    assert _states(tmp_path)[:2] == ["waiting", "waiting"]


def test_a_job_that_was_under_way_as_its_run_went_on_is_done_again(tmp_path):
    made = runs.create(tmp_path, "tune", Settings())
    (tmp_path / made.id / "adapter").mkdir()
    tune = _tune(1)
    store.add(tmp_path, [tune, QueuedJob("compare", after=tune.id)])
    shutil.copytree(made.folder, tmp_path / "run-2")  # what the fake engine calls the resumed run
    store.change(tmp_path, tune.id, state="stopped", run=made.id)
    engine = _Engine()
    runner = Runner(tmp_path, engine)
    runner.go_on()
    _until(lambda: _states(tmp_path)[1] == "running")
    store.again(tmp_path, tune.id, resume=True)
    engine.results += [{}, {}]
    engine.job.end(None)
    _until(lambda: not runner.going)
    assert engine.started == [(made.id, ""), made.id, ("run-2", "")] and _states(tmp_path) == ["done", "done"]


def test_two_threads_lose_no_change(tmp_path):
    jobs = store.add(tmp_path, [_tune(n + 1) for n in range(4)])

    def shuffle(by):
        for job in jobs:
            store.move(tmp_path, job.id, by)
            store.add(tmp_path, [_tune()])

    threads = [threading.Thread(target=shuffle, args=(by,)) for by in (1, -1)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    orders = [job.order for job in store.listing(tmp_path).jobs]
    assert len(set(orders)) == len(orders) == 12
    assert all(json.loads(path.read_text()) for path in (tmp_path / store.FOLDER).glob("*.json"))


def test_removing_no_job_asks_for_its_id(tmp_path, capsys):
    assert main(["queue", "remove", "--runs", str(tmp_path)]) == 1
    assert "queue remove ID" in json.loads(capsys.readouterr().out)["error"]
