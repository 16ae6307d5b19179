"""The line before the engine on a shared page: fair turns, places, limits, and what a visitor sees of the engine."""

import contextvars
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from playground import runs
from playground.errors import PlaygroundError, problem
from playground.job import Job
from playground.runs.store import VISITORS
from playground.settings import Settings
from playground.settings.limits import (
    SHARED,
    Limits,
    beyond_limits,
    raise_if_too_large,
    raise_if_too_many_rows,
    raise_if_too_many_steps,
)
from playground.ui import downloads, engine_line, visitor_engine, workspaces
from playground.ui.engine_line import EngineLine
from playground.ui.engine_state import engine_state
from playground.ui.page import Page
from playground.ui.shared_page import SharedPage
from playground.ui.visitor_engine import VisitorEngine
from playground.ui.visitors import read_secret
from playground.ui.workspaces import Workspaces


class SlowEngine:
    """An engine whose jobs end when the test says so, or when they are stopped."""

    def __init__(self) -> None:
        self.sent: list[Job] = []
        self.loaded: dict | None = None
        self.memory: dict | None = None
        self.unloads = 0
        self.state = "ready"

    def submit(self, job: Job, do: str, root: Path, arguments: dict) -> Job:
        self.sent.append(job)
        return job

    def stop_job(self, job: Job) -> bool:
        job.add({"kind": "done", "result": {"stopped": True}})
        job.end(None)
        return True

    def unload(self) -> bool:
        self.loaded, self.unloads = None, self.unloads + 1
        return True


def until(condition) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


@pytest.fixture
def engine():
    return SlowEngine()


def people(engine, tmp_path, *names, **limits) -> list[VisitorEngine]:
    line = EngineLine(engine, Limits(**limits))
    return [VisitorEngine(tmp_path / VISITORS / name, line) for name in names]


def keys(error: pytest.ExceptionInfo) -> list[str]:
    return [problem.key for problem in error.value.problems]


def test_visitors_take_turns_in_the_order_in_which_they_came(engine, tmp_path):
    a, b, c = people(engine, tmp_path, "a", "b", "c")
    first = a.tune(Settings())
    until(lambda: engine.sent == [first])
    second, third = b.tune(Settings()), c.load(Settings())
    assert (b.place.number, b.place.of, c.place.number, a.place) == (1, 2, 2, None)
    assert c.place.seconds > b.place.seconds > 0
    with pytest.raises(PlaygroundError) as refused:  # one job a visitor: nobody waits for two of the same
        a.load(Settings())
    assert keys(refused) == ["error.busy"]
    first.end(None)
    until(lambda: engine.sent == [first, second])
    fourth = a.tune(Settings())
    second.end(None), until(lambda: len(engine.sent) == 3)
    third.end(None), until(lambda: len(engine.sent) == 4)
    assert engine.sent == [first, second, third, fourth]


def test_a_visitor_sees_and_stops_nothing_of_another(engine, tmp_path):
    a, b = people(engine, tmp_path, "a", "b")
    job = a.tune(Settings())
    until(lambda: engine.sent)
    job.add({"kind": "opened", "run": "run-a"})
    engine.loaded = {"model": "secret/model", "bits": 4, "run": "run-a", "root": a.root}
    assert (a.state, a.run, a.job, a.loaded["model"]) == ("busy", "run-a", job, "secret/model")
    assert (b.state, b.run, b.job, b.last, b.last_tune, b.loaded) == ("ready", None, None, None, None, None)
    assert not b.stop() and not b.stop("tune") and not b.stop_job(Job("tune")) and not b.writes_to("run-a")
    b.unload(), b.close()
    assert engine.loaded and not job.ended
    assert a.stop() and job.ended


def test_a_job_that_waits_is_taken_out_of_the_line(engine, tmp_path):
    a, b = people(engine, tmp_path, "a", "b")
    first, second = a.tune(Settings()), b.tune(Settings())
    until(lambda: engine.sent)
    assert b.stop() and second.ended and second.error.problems[0].key == "shared.left_line" and b.state == "ready"
    first.end(None)
    time.sleep(0.1)
    assert engine.sent == [first]


def test_unload_at_its_turn_frees_no_other_visitors_model(engine, tmp_path, monkeypatch):
    a, b = people(engine, tmp_path, "a", "b")
    engine.loaded = {"model": "m", "bits": 4, "run": "r", "root": a.root}
    load = b.load(Settings())
    until(lambda: engine.sent == [load])
    pressed = threading.Thread(target=a.unload)
    pressed.start()
    until(lambda: a.place)
    engine.loaded = {"model": "m", "bits": 4, "run": "s", "root": b.root}
    load.end(None)
    pressed.join(10)
    assert engine.sent == [load] and not pressed.is_alive() and a.state == "ready"
    pressed = threading.Thread(target=b.unload)  # one's own is freed
    pressed.start()
    until(lambda: len(engine.sent) == 2)
    engine.sent[1].end(None), pressed.join(10)
    assert engine.sent[1].do == "unload" and not pressed.is_alive()


def test_the_button_waits_for_its_turn_no_longer_than_a_moment_and_keeps_its_place(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(visitor_engine, "UNLOAD_SECONDS", 0.1)
    a, b = people(engine, tmp_path, "a", "b")
    engine.loaded = {"model": "m", "bits": 4, "run": "r", "root": a.root}
    chat = b.load(Settings())
    until(lambda: engine.sent == [chat])
    began = time.monotonic()
    with pytest.raises(PlaygroundError) as waits:
        a.unload()
    assert time.monotonic() - began < 10
    assert keys(waits) == ["shared.unload_waits"] and "place 1 of 1" in waits.value.text("en") and a.place.number == 1
    chat.end(None)
    until(lambda: len(engine.sent) == 2)
    assert engine.sent[1].do == "unload"


def test_no_more_wait_than_the_limit(engine, tmp_path):
    a, b, c = people(engine, tmp_path, "a", "b", "c", waiting=1)
    a.tune(Settings())
    until(lambda: engine.sent)
    b.tune(Settings())
    with pytest.raises(PlaygroundError) as refused:
        c.tune(Settings())
    assert keys(refused) == ["shared.line_full"] and c.state == "ready"


def test_a_job_is_stopped_after_the_limit_of_seconds_and_its_run_says_so(engine, tmp_path):
    (a,) = people(engine, tmp_path, "a", seconds=1)
    run = runs.create(a.root, "tune", Settings())
    job = a.tune(Settings())
    job.add({"kind": "opened", "run": run.id})
    assert job.wait(5) and job.result["stopped"]
    until(lambda: any(event.get("key") == "note.time_limit" for event in run.events()))


def test_the_model_is_unloaded_once_nobody_has_used_it_for_a_while(engine, tmp_path):
    (a,) = people(engine, tmp_path, "a", idle=1)
    job = a.load(Settings())
    until(lambda: engine.sent)
    engine.loaded = {"model": "m", "bits": 4, "run": "r", "root": a.root}
    time.sleep(1.3)
    assert engine.unloads == 0  # a job is under way
    job.end(None)
    until(lambda: engine.unloads == 1)


def test_a_failing_engine_ends_the_job_and_the_next_has_its_turn(engine, tmp_path):
    a, b = people(engine, tmp_path, "a", "b")
    send, engine.submit = engine.submit, lambda *arguments: (_ for _ in ()).throw(OSError("no process"))
    job = a.load(Settings())
    assert job.wait(5) and job.error
    engine.submit = send
    b.load(Settings())
    until(lambda: engine.sent)


@pytest.fixture
def spaces(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_CACHE", str(tmp_path / "cache"))
    gone: list[str] = []
    made = Workspaces(tmp_path, engine, None, Limits(runs=2, disk=100_000, disk_of_all=150_000, kept=60), gone.append)
    yield made, gone
    made.close()  # or it would remove, a minute later, what another test has uploaded


def test_a_visitor_keeps_no_more_runs_and_bytes_than_the_limits(spaces):
    made, _ = spaces
    ada, bob, eve = made.of("ada"), made.of("bob"), made.of("eve")
    ada.engine.load(Settings()).end(None)
    for _ in range(2):
        runs.create(ada.root, "tune", Settings())
    with pytest.raises(PlaygroundError) as refused:
        ada.engine.tune(Settings())
    assert keys(refused) == ["shared.runs"]
    (runs.create(bob.root, "tune", Settings()).folder / "big").write_bytes(bytes(100_000))
    with pytest.raises(PlaygroundError) as refused:
        bob.engine.tune(Settings())
    assert keys(refused) == ["shared.disk"]
    (bob.root / "more").write_bytes(bytes(60_000))
    with pytest.raises(PlaygroundError) as refused:
        eve.engine.tune(Settings())
    assert keys(refused) == ["shared.disk_of_all"]


def test_a_job_that_writes_beyond_the_disk_limit_is_stopped_and_keeps_what_was_there(engine, spaces, monkeypatch):
    monkeypatch.setattr(engine_line, "DISK_SECONDS", 0.02)
    ada = spaces[0].of("ada")
    before = runs.create(ada.root, "tune", Settings())
    (before.folder / "adapter").write_bytes(bytes(50_000))
    job = ada.engine.tune(Settings())
    until(lambda: engine.sent)
    run = runs.create(ada.root, "tune", Settings())
    job.add({"kind": "opened", "run": run.id})
    (run.folder / "checkpoint.pt").write_bytes(bytes(40_000))
    time.sleep(0.2)
    assert not job.ended
    (run.folder / "snapshot.pickle").write_bytes(bytes(20_000))
    assert job.wait(5) and job.result["stopped"]
    until(lambda: sum(event["kind"] == "note" for event in run.events()) == 2)
    notes = [event for event in run.events() if event["kind"] == "note"]
    assert [note["key"] for note in notes] == ["note.disk_limit", "shared.disk"]
    assert notes[1]["values"]["size_bytes"] > 110_000 and notes[1]["values"]["most_bytes"] == 100_000
    assert (before.folder / "adapter").stat().st_size == 50_000 and (run.folder / "checkpoint.pt").is_file()
    bob = spaces[0].of("bob").engine.load(Settings())  # the next one has its turn
    until(lambda: bob in engine.sent)


def test_what_nobody_has_visited_for_long_is_removed_with_its_uploads(spaces, tmp_path):
    from playground.data import uploads

    made, gone = spaces
    for name in ("ada", "bob"):
        file = tmp_path / "rows.csv"
        file.write_text("a,b\n")
        uploads.keep(file, name)
        runs.create(made.of(name).root, "tune", Settings())
    made.of("ada").seen -= 61
    made.tidy()
    assert gone == ["ada"] and not (made.folder / "ada").exists() and (made.folder / "bob").is_dir()
    assert uploads.owners() == {"bob"}


def test_fresh_uploads_of_a_visitor_of_another_program_stay(spaces, tmp_path):
    """Two shared pages have one cache, and a page that is started again has visitors whom it doesn't know yet."""
    from playground.data import uploads

    made, gone = spaces
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n")
    uploads.keep(file, "stranger")
    made.tidy()
    assert gone == [] and uploads.owners() == {"stranger"}
    for path in uploads._folder().rglob("*"):
        os.utime(path, (1, 1))
    made.tidy()
    assert gone == ["stranger"] and uploads.owners() == set()


def test_what_was_made_for_downloads_goes_with_its_visitor(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_CACHE", str(tmp_path / "cache"))
    shared = SharedPage(tmp_path)
    made = {name: downloads.place(name, "repeat", "run") / "settings.json" for name in ("ada", "bob")}
    for file in made.values():
        file.write_text("{}")
    find = shared.workspaces(engine, None).__self__
    for name in made:
        runs.create(find.of(name).root, "tune", Settings())
    find.of("ada").seen -= shared.limits.kept + 1
    find.tidy()
    assert not made["ada"].exists() and made["bob"].exists()
    downloads.remove("bob")


@pytest.mark.parametrize("owner", ["", ".", "..", "../other", "a/b"])
def test_an_owners_file_that_is_torn_or_forged_removes_nobodys_things(spaces, owner):
    from playground.data import uploads

    made, gone = spaces
    (made.folder.parent / "other").mkdir()
    runs.create(made.of("bob").root, "tune", Settings())
    forged = uploads._folder() / ("0" * 32) / uploads.OWNER
    forged.parent.mkdir(parents=True)
    forged.write_text(owner)
    made.tidy()
    assert gone == [] and len(runs.history(made.folder / "bob")) == 1 and (made.folder.parent / "other").is_dir()
    assert not uploads.belongs_to(f"upload:{'0' * 32}/rows.csv", owner)


def test_a_clock_that_is_set_forward_makes_no_visit_older(spaces, monkeypatch):
    made, gone = spaces
    runs.create(made.of("ada").root, "tune", Settings())
    later = time.time() + 1e6
    monkeypatch.setattr(workspaces.time, "time", lambda: later)
    made.tidy()
    assert gone == [] and (made.folder / "ada").is_dir()


def test_a_torn_key_of_the_cookies_is_replaced(tmp_path):
    first = read_secret(tmp_path)
    assert len(first) == 32 and read_secret(tmp_path) == first
    (tmp_path / "secret").write_bytes(b"")
    assert len(read_secret(tmp_path)) == 32 and list(tmp_path.iterdir()) == [tmp_path / "secret"]
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0


def test_two_visitors_runs_never_share_an_id(tmp_path):
    ids = {runs.create(tmp_path / VISITORS / name, "tune", Settings()).id for name in "abcdef"}
    assert len(ids) == 6 and all(runs.RUN_ID.fullmatch(run_id) for run_id in ids)


def test_settings_beyond_the_limits_are_all_named_at_once():
    beyond = {"train": {"max_steps": 301, "max_seq_length": 1025}, "data": {"sample": 5001}}
    found = beyond_limits(Settings().with_values(beyond), Limits())
    assert [problem.key for problem in found] == ["shared.steps", "shared.rows", "shared.length"]
    assert "at most 300" in found[0].text("en") and beyond_limits(Settings(), Limits()) == []
    assert beyond_limits(Settings().with_values({"data": {"start_row": 100, "end_row": 200}}), Limits(rows=101)) == []
    assert beyond_limits(Settings().with_values({"data": {"start_row": 100, "end_row": 201}}), Limits(rows=101))


@pytest.mark.parametrize("limits,refused", [(None, []), (Limits(steps=90, rows=300), ["shared.steps", "shared.rows"])])
def test_more_steps_than_the_limit_are_refused_before_the_job_waits_for_its_turn(tmp_path, limits, refused):
    summary = {"rows": 330, "steps": 2100}
    planner = SimpleNamespace(ask=lambda do, **arguments: summary)
    page = Page("en", lambda: SimpleNamespace(root=tmp_path, planner=planner), Settings(), limits is None, limits)
    try:
        page.raise_if_too_much_work(Settings())
        assert not refused
    except PlaygroundError as error:
        assert [one.key for one in error.problems] == refused and "2,100 steps" in error.text("en")
    planner.ask = lambda do, **arguments: _raise(problem("error.planner_died", code=1))
    page.raise_if_too_much_work(Settings())  # the engine counts once more


def _raise(error: Exception) -> None:
    raise error


def test_the_live_view_says_in_a_sentence_which_place_a_visitors_job_has(engine, tmp_path):
    a, b, c = people(engine, tmp_path, "a", "b", "c")
    for one in (a, b, c):
        one.load(Settings())
    spaces = {one: SimpleNamespace(engine=one) for one in (a, b, c)}
    until(lambda: engine.sent)
    seen = [engine_state(Page("en", lambda one=one: spaces[one], Settings())) for one in (a, b, c)]
    assert seen[0]["waits"] == "" and "place 1 of 2" in seen[1]["waits"] and "place 2 of 2" in seen[2]["waits"]


@pytest.mark.parametrize("check,most", [
    (raise_if_too_many_rows, 5_000), (raise_if_too_many_steps, 300), (raise_if_too_large, 2_000_000_000)
])  # fmt: skip
def test_the_engine_of_a_shared_page_enforces_what_only_it_knows(monkeypatch, check, most):
    check(most + 1)  # the owner's own page has no limits
    monkeypatch.setenv(SHARED, "1")
    check(most)
    with pytest.raises(PlaygroundError) as refused:
        check(most + 1)
    assert keys(refused)[0].startswith("shared.") and refused.value.text("ja")


def test_the_owner_sets_limits_by_variables(monkeypatch):
    monkeypatch.setenv("PLAYGROUND_MAX_STEPS", "7")
    assert Limits.from_environment() == Limits(steps=7)
    for wrong in ("many", "-1", "0", "1.5"):
        monkeypatch.setenv("PLAYGROUND_MAX_STEPS", wrong)
        with pytest.raises(PlaygroundError) as refused:
            Limits.from_environment()
        assert wrong in refused.value.text("en")


def test_the_processes_of_a_shared_page_have_no_token_and_no_folder_to_look_into(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    monkeypatch.setenv("PLAYGROUND_CACHE", "relative")
    shared = SharedPage(tmp_path)
    assert "hf_owner" not in shared.environment.values() and shared.environment["HF_TOKEN"] == ""
    assert list(shared.folder.iterdir()) == []
    assert Path(shared.environment["PLAYGROUND_CACHE"]) == Path("relative").resolve()


def test_typical_durations_are_replaced_by_measured_ones(engine, tmp_path, monkeypatch):
    monkeypatch.setitem(engine_line.TYPICAL_SECONDS, "tune", 500.0)
    a, b = people(engine, tmp_path, "a", "b")
    job = a.tune(Settings())
    until(lambda: engine.sent)
    b.tune(Settings())
    assert b.place.seconds > 400
    job.end(None), until(lambda: b.place is None)
    assert threading.active_count() and a.tune(Settings()) and a.place.seconds < 10


def test_a_job_runs_in_the_context_of_its_visitors_request(engine, tmp_path, monkeypatch):
    asked_by = contextvars.ContextVar("asked_by", default="")
    seen = []
    monkeypatch.setattr(engine, "submit", lambda job, *_: (seen.append(asked_by.get()), job.end(None)))
    for name, visitor in zip(("a", "b"), people(engine, tmp_path, "a", "b")):
        context = contextvars.copy_context()
        context.run(asked_by.set, name)
        assert context.run(visitor.load, Settings()).wait(10)
    assert seen == ["a", "b"]
