"""Thousands of runs are listed from an index, whatever becomes of it, and a person's names and notes stay whole."""

import json
import os
import threading
import time
from types import SimpleNamespace

import pytest
from toys import keys

from playground import runs
from playground.errors import PlaygroundError
from playground.runs import index, label, listing, query
from playground.runs.accuracy import all_totals
from playground.runs.query import Query, find_runs, parse_query
from playground.settings import Settings
from playground.ui.runs_table import table_value

NAMES = ("a/b \\ \"quoted\" 'x' <b>&amp;</b>", "🎚️ 二回目の学習 👩‍👩‍👧", "n" * 300, "../../etc/passwd")


def a_run(root, job="tune", ending="done", began=None, **groups):
    run = runs.create(root, job, Settings().with_values(groups), hardware={"device": "cpu", "name": "CPU"})
    run.append("memory_predicted", phase=job, parts={"weights": 5}, rss=300)
    run.append("memory", rss=100)
    run.append("step", step=1, tokens_per_s=400.0)
    run.append("memory_measured", phase=job, parts={"weights": 5}, peak={"rss": 200})
    if ending == "error":
        run.append("error", job=job, problems=[{"key": "error.busy", "values": {}}])
    elif ending:
        run.append("done", job=job, result={"loss": {"before": 3.0, "after": 1.5}, "stopped": ending == "stopped"})
    return run


@pytest.fixture
def settled(monkeypatch):
    """Runs are kept in the index as soon as they are listed, and each listing is a start of the program."""
    monkeypatch.setattr(index, "SETTLED_SECONDS", -60.0)

    def start_again(root):
        index.index_of.cache_clear()
        return runs.history(root)

    return start_again


def read_by(monkeypatch):
    """The ids of the runs whose events are read from now on."""
    read, summarize = [], index.summarize
    monkeypatch.setattr(index, "summarize", lambda run_id, events: read.append(run_id) or summarize(run_id, events))
    return read


def test_a_second_start_lists_from_the_index_and_reads_only_what_changed(tmp_path, settled, monkeypatch):
    made = [a_run(tmp_path) for _ in range(4)]
    first = settled(tmp_path)
    read = read_by(monkeypatch)
    assert settled(tmp_path) == first and read == []
    made[1].append("done", job="tune", result={"loss": {"before": 3.0, "after": 0.5}})
    new = a_run(tmp_path)
    again = {run.id: run for run in settled(tmp_path)}
    assert sorted(read) == sorted([made[1].id, new.id]) and again[made[1].id].loss == (3.0, 0.5)
    assert settled(tmp_path)[0].peak == (300, 200) and len(read) == 2


def test_the_first_page_of_many_unread_runs_reads_its_own_rows_alone(tmp_path, settled, monkeypatch):
    monkeypatch.setattr(listing, "MANY", 3)
    tunes, loads = ([f"20260101-00000{n}-{job}" for n in range(4)] for job in ("tune", "load"))
    for run_id in tunes + loads:
        made = a_run(tmp_path, "tune" if "tune" in run_id else "load")
        made.folder.rename(tmp_path / run_id)
    (tmp_path / tunes[3] / "events.jsonl").unlink()
    os.utime(tmp_path / tunes[3], (0, 0))
    read = read_by(monkeypatch)
    index.index_of.cache_clear()
    newest, counts = listing.newest(tmp_path, 2)
    assert [run.id for run in newest] == sorted(tunes[2:] + loads[2:], reverse=True) and len(read) == 4
    assert counts == {"tunes": 4, "others": 4} and newest[0].state == "failed"
    engine = SimpleNamespace(run=None, state="ready")
    value = json.loads(table_value(SimpleNamespace(lang="en", root=tmp_path, engine=engine), ""))
    assert value["unread"] is True and value["all"] == 8 and value["tunes"] == {"count": 4, "first": 0}
    assert listing.newest(tmp_path, 2) == (runs.history(tmp_path), None)  # all are read by now
    value = json.loads(table_value(SimpleNamespace(lang="en", root=tmp_path, engine=engine), ""))
    assert "unread" not in value and len(value["runs"]) == 8


def test_a_damaged_index_is_read_from_the_runs_again(tmp_path, settled, monkeypatch):
    made = [a_run(tmp_path) for _ in range(3)]
    first = settled(tmp_path)
    file = tmp_path / index.FILE
    whole = file.read_bytes()
    entry = json.loads(whole.splitlines()[0])
    damaged = [
        b"",
        whole[:-20],
        b"\x00\xff" * 50,
        b"[1]\nnull\n" + b"[" * 5000,
        *(
            json.dumps(entry | {"summary": entry["summary"] | change}).encode() + b"\n"
            for change in ({"result": "x"}, {"began": None}, {"id": 3}, {"more": 1}, {"memory": []}, {"bits": "4"})
        ),
        json.dumps(entry | {"version": 99, "summary": entry["summary"] | {"model": "wrong"}}).encode() + b"\n",
    ]
    for content in damaged:
        file.write_bytes(content)
        assert settled(tmp_path) == first, content[:80]
    read = read_by(monkeypatch)
    assert settled(tmp_path) == first and read == [] and len(made) == 3  # and mended


def test_two_programs_share_an_index(tmp_path, settled):
    a_run(tmp_path)
    one, other = index.Index(tmp_path), index.Index(tmp_path)
    states = {
        run.id: ((f := run.folder / "events.jsonl").stat().st_size, f.stat().st_mtime_ns) for run in [a_run(tmp_path)]
    }
    threads = [
        threading.Thread(target=lambda i=i: [i.summaries(states) for _ in range(30)])
        for i in (one, other)
        for _ in "12"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / index.FILE).read_bytes().splitlines()
    assert 1 <= len(lines) <= 2 and all(json.loads(line)["version"] == index.VERSION for line in lines)


def test_an_index_with_many_outdated_lines_is_written_anew(tmp_path, settled):
    run = a_run(tmp_path)
    for number in range(250):
        run.append("step", step=number)
        runs.history(tmp_path)
    assert len((tmp_path / index.FILE).read_bytes().splitlines()) < 210


def test_runs_are_listed_where_no_index_can_be_written(tmp_path, settled):
    run = a_run(tmp_path)
    (tmp_path / index.FILE).mkdir()
    assert [listed.id for listed in settled(tmp_path)] == [run.id]


def test_a_run_that_is_being_written_is_not_kept_yet(tmp_path):
    a_run(tmp_path)
    assert len(runs.history(tmp_path)) == 1 and not (tmp_path / index.FILE).exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"t": 0, "ki',
        b'{"t":0,"kind":"run_started","began":"soon","settings":[],"hardware":7,"job":null}\n',
        b'{"t":0,"kind":"run_started","began":1e300,"settings":{"load":{"bits":"x","model":3},"data":null},"job":"tune"}\n'
        b'{"t":-5,"kind":"done","job":"tune","result":[1]}\n{"t":-9,"kind":"error","job":"tune","problems":"no"}\n',
        b'{"t":3,"kind":"done","job":"tune","result":{"loss":[3],"recall":{"base":null},"tokens_per_s":"fast"}}\n',
        b'{"t":1,"kind":"memory_measured","phase":["tune"],"peak":7}\n{"t":1,"kind":"memory_measured","phase":"tune"}\n',
    ],
)
def test_a_run_that_was_half_copied_or_edited_by_hand_is_listed(tmp_path, settled, content):
    folder = tmp_path / "20261127-100000-tune"
    folder.mkdir()
    (folder / "events.jsonl").write_bytes(content)
    (folder / "settings.json").write_text("{")
    sound = a_run(tmp_path)
    for listed in (settled(tmp_path), settled(tmp_path)):
        assert {run.id for run in listed} == {folder.name, sound.id}
        for sort in query.COLUMNS:
            assert len(find_runs(listed, Query(text="", sort=sort), lambda run: "")) == 2
        assert [run.loss for run in listed if run.id == folder.name] == [None]
    assert [pair.run for pair in all_totals(tmp_path)] == [sound.id]


def test_a_clock_that_went_backwards_gives_no_negative_duration(tmp_path):
    run = a_run(tmp_path, ending="")
    with open(run.folder / "events.jsonl", "a") as file:
        file.write('{"t":-3600.0,"kind":"done","job":"tune","result":{}}\n')
    assert [(listed.seconds, listed.state) for listed in runs.history(tmp_path)] == [(0.0, "done")]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_kept_whole_and_beside_the_runs_own_files(tmp_path, name):
    run = a_run(tmp_path)
    before = {file: (run.folder / file).read_bytes() for file in ("events.jsonl", "settings.json")}
    runs.write_label(tmp_path, run.id, name, "first line\nsecond line")
    listed = runs.history(tmp_path)[0]
    assert (listed.label.name, listed.label.note) == (name, "first line\nsecond line")
    assert before == {file: (run.folder / file).read_bytes() for file in before}
    assert {path.name for path in run.folder.iterdir()} == {*before, label.FILE}
    runs.write_label(tmp_path, run.id, " ", "")
    assert runs.history(tmp_path)[0].label == runs.Label() and not (run.folder / label.FILE).exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": 3, "note": null}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_label_is_ignored_and_its_run_listed(tmp_path, content):
    run = a_run(tmp_path)
    (run.folder / label.FILE).write_bytes(content)
    assert [(listed.id, listed.label) for listed in runs.history(tmp_path)] == [(run.id, runs.Label())]


def test_another_programs_label_is_seen_and_a_failed_one_leaves_the_old(tmp_path, monkeypatch):
    run = a_run(tmp_path)
    runs.write_label(tmp_path, run.id, "one", "")
    assert runs.history(tmp_path)[0].label.name == "one"
    other = tmp_path / "elsewhere.json"
    other.write_text('{"name": "two", "note": ""}')
    os.replace(other, run.folder / label.FILE)
    assert runs.history(tmp_path)[0].label.name == "two"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(label.os, "replace", full)
    with pytest.raises(OSError):
        runs.write_label(tmp_path, run.id, "three", "")
    assert runs.history(tmp_path)[0].label.name == "two" and len(list(run.folder.glob("label*"))) == 1


def test_a_label_is_refused_for_an_unknown_run_or_a_text_too_long(tmp_path):
    run = a_run(tmp_path)
    for run_id, name, key in (
        ("../x", "n", "error.no_run"),
        ("absent", "n", "error.no_run"),
        (run.id, "n" * 1001, "error.label_long"),
    ):
        with pytest.raises(PlaygroundError) as caught:
            runs.write_label(tmp_path, run_id, name, "")
        assert keys(caught) == [key]
    assert runs.write_label(tmp_path, run.id, "a\ud800\nb\x00c", "").name == "a b c"


def test_runs_are_found_by_text_and_state_and_sorted_with_unknown_values_last(tmp_path):
    good = a_run(tmp_path, load={"model": "toy", "bits": 4}, lora={"r": 64, "dropout": 0.125})
    bad = a_run(tmp_path, ending="error", train={"lr": 0.5})
    load = a_run(tmp_path, "load", ending="")
    runs.write_label(tmp_path, bad.id, "Ｆｉｒｓｔ Ｔｒｙ", "forgot the warmup")
    listed = runs.history(tmp_path)

    def found(**fields):
        return [run.id for run in find_runs(listed, Query(**fields), lambda run: "shown " + run.job)]

    assert (
        found(text="dropout 0.125") == [good.id]
        and found(text="first WARMUP") == [bad.id]
        and found(text="nowhere") == []
    )
    assert found(text="shown load") == [load.id] and found(state="failed") == [bad.id]
    assert found(sort="loss")[0] == good.id and found(sort="loss", reverse=True)[0] == good.id
    assert found() == [load.id, bad.id, good.id] and found(reverse=True) == [good.id, bad.id, load.id]
    assert parse_query({"text": 3, "sort": "__class__", "state": "x", "reverse": "yes"}) == Query()


def test_a_clock_that_was_set_back_keeps_no_run_out_of_the_index(tmp_path):
    run = a_run(tmp_path)
    later = time.time() + 3600
    os.utime(run.folder / "events.jsonl", (later, later))
    runs.history(tmp_path)
    assert run.id in (tmp_path / index.FILE).read_text(encoding="utf-8")


def test_a_run_without_events_is_listed_also_after_the_clock_was_set_back(tmp_path):
    run = a_run(tmp_path)
    (run.folder / "events.jsonl").unlink()
    later = time.time() + 3600
    os.utime(run.folder, (later, later))
    assert [found.state for found in runs.history(tmp_path)] == ["failed"]
