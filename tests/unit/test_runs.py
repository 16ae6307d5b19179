"""A run folder can be read back whatever happened to it."""

import threading

import pytest
from toys import keys

from playground import runs
from playground.errors import PlaygroundError
from playground.settings import Settings


@pytest.fixture
def run(tmp_path):
    return runs.create(
        tmp_path,
        "tune",
        Settings().with_values({"load": {"model": "toy", "bits": 4}, "data": {"source": "set"}}),
        hardware={"device": "cpu"},
    )


def test_a_new_run_begins_with_its_settings_and_hardware(run, tmp_path):
    first = next(run.events())
    assert (first["kind"], first["schema"], first["job"], first["hardware"]) == (
        "run_started",
        runs.SCHEMA,
        "tune",
        {"device": "cpu"},
    )
    assert run.settings().to_dict() == first["settings"] and runs.find(tmp_path, run.id).began() == first["began"]


def test_runs_of_the_same_second_get_different_folders(tmp_path):
    made = [runs.create(tmp_path, "load", Settings()) for _ in range(5)]
    assert len({r.id for r in made}) == 5 and len(runs.history(tmp_path)) == 5


def test_a_torn_last_line_is_skipped_and_later_events_are_read(run):
    run.append("note", key="a", values={})
    with open(run.folder / "events.jsonl", "ab") as file:
        file.write('{"t": 1.0, "kind": "step", "text": "切'.encode()[:-1])
    assert [e["kind"] for e in run.events()] == ["run_started", "note"]
    runs.Run(run.folder).append("done", result={})
    assert [e["kind"] for e in run.events()] == ["run_started", "note", "done"]


def test_invalid_lines_are_skipped_and_unknown_kinds_kept(run):
    with open(run.folder / "events.jsonl", "a", encoding="utf-8") as file:
        file.write(
            '[1]\n"x"\n{"kind": "no time"}\n{"t": "soon", "kind": "x"}\n\nnull\n'
            '{"t": 2, "kind": "from the future", "extra": {}}\n'
        )
    assert [e["kind"] for e in run.events()] == ["run_started", "from the future"]
    assert runs.history(run.folder.parent)[0].state == "open"


def test_a_cursor_follows_the_file_without_losing_or_repeating_an_event(run):
    seen, cursor = [], 0
    for number in range(30):
        run.append("step", step=number, loss=1.0)
        if number % 7 == 0:
            events, cursor = run.since(cursor)
            seen += events
    events, cursor = run.since(cursor)
    assert [e["step"] for e in [*seen, *events] if e["kind"] == "step"] == list(range(30))
    assert run.since(cursor) == ([], cursor)


def test_small_blocks_read_every_event(run):
    for number in range(50):
        run.append("step", step=number)
    events, cursor, after = [], -1, 0
    while after != cursor:
        cursor = after
        block, after = run.since(cursor, max_bytes=2000)
        events += block
    assert events == list(run.events())


def test_an_unfinished_line_is_left_for_the_next_read(run):
    _, cursor = run.since(0)
    with open(run.folder / "events.jsonl", "ab") as file:
        file.write(b'{"t": 1, "kind": "no')
        file.flush()
        assert run.since(cursor) == ([], cursor)
        file.write(b'te"}\n')
    assert [e["kind"] for e in run.since(cursor)[0]] == ["note"]


def test_threads_append_whole_lines(run):
    threads = [
        threading.Thread(target=lambda n=n: [run.append("step", step=n, text="あ" * 500) for _ in range(40)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(run.events())) == 161


@pytest.mark.parametrize(
    "events,state",
    [
        ([], "open"),
        ([("step", {"step": 1})], "open"),
        ([("done", {"job": "tune", "result": {"loss": 1}})], "done"),
        ([("done", {"job": "tune", "result": {"stopped": True}})], "stopped"),
        ([("error", {"job": "tune", "problems": []})], "failed"),
        ([("done", {"job": "tune", "result": {}}), ("error", {"job": "chat", "problems": []})], "done"),
        ([("error", {"job": "tune", "problems": []}), ("done", {"job": "chat", "result": {}})], "failed"),
    ],
)
def test_history_shows_how_a_run_ended(run, events, state):
    for kind, more in events:
        run.append(kind, **more)
    summary = runs.history(run.folder.parent)[0]
    assert (summary.state, summary.model, summary.bits, summary.data, summary.job) == (state, "toy", 4, "set", "tune")


def test_history_is_newest_first_and_notices_changes(run, tmp_path):
    assert not runs.history(tmp_path)[0].has_adapter
    run.adapter.mkdir()
    run.append("done", job="tune", result={"loss": 2})
    late = runs.create(tmp_path, "tune", Settings())
    late.folder.rename(tmp_path / "29991231-000000-tune")
    summaries = runs.history(tmp_path)
    assert [s.id for s in summaries] == ["29991231-000000-tune", run.id]
    assert summaries[1].has_adapter and summaries[1].result == {"loss": 2}


def test_history_survives_strange_folders(run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "events.jsonl").write_bytes(b'{"t": 0, "ki')
    (tmp_path / "engine.log").write_text("")
    assert {s.id for s in runs.history(tmp_path)} == {run.id, "torn"}
    assert runs.history(tmp_path / "nowhere") == []


def test_the_last_result_is_of_the_runs_own_job_not_of_a_chat(run):
    assert runs.last_result(run) == {}
    run.append("done", job="tune", result={"a": 1})
    run.append("done", job="chat", result={"a": 2})
    assert runs.last_result(run) == {"a": 1}


@pytest.mark.parametrize(
    "run_id", ["../x", "..", ".", "", "/etc", "a/b", "a\\b", "x\x00", "-x", None, "a" * 200, "absent", "x\n"]
)
def test_an_invalid_run_id_is_refused(tmp_path, run_id):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "events.jsonl").write_text("")
    inside = tmp_path / "runs"
    inside.mkdir()
    with pytest.raises(PlaygroundError) as caught:
        runs.find(inside, run_id)
    assert keys(caught) == ["error.no_run"]
