"""A deleted run can be brought back whole, until the trash is emptied."""

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from toys import keys

from playground import runs
from playground.errors import PlaygroundError, as_playground_error
from playground.runs.store import TRASH
from playground.runs.trash import KEPT_SECONDS
from playground.settings import Settings


@pytest.fixture
def run(tmp_path):
    made = runs.create(tmp_path, "tune", Settings())
    made.adapter.mkdir()
    (made.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    return made


def _ids(summaries):
    return [summary.id for summary in summaries]


def _make_older(root, run_id, seconds):
    then = time.time() - seconds
    os.utime(root / TRASH / run_id, (then, then))


def test_a_deleted_run_is_in_no_list_but_the_trashs(run, tmp_path):
    other = runs.create(tmp_path, "load", Settings())
    runs.delete(tmp_path, run.id)
    assert _ids(runs.history(tmp_path)) == [other.id] and _ids(runs.deleted(tmp_path)) == [run.id]
    with pytest.raises(PlaygroundError) as caught:
        runs.find(tmp_path, run.id)
    assert keys(caught) == ["error.no_run"]


def test_a_restored_run_has_all_its_files(run, tmp_path):
    before = {path.relative_to(run.folder): path.is_file() and path.read_bytes() for path in run.folder.rglob("*")}
    runs.delete(tmp_path, run.id)
    runs.restore(tmp_path, run.id)
    assert before == {p.relative_to(run.folder): p.is_file() and p.read_bytes() for p in run.folder.rglob("*")}
    assert _ids(runs.history(tmp_path)) == [run.id] and runs.deleted(tmp_path) == []


def test_a_run_is_deleted_and_restored_once(run, tmp_path):
    runs.delete(tmp_path, run.id)
    for again in (runs.delete, lambda root, run_id: (runs.restore(root, run_id), runs.restore(root, run_id))):
        with pytest.raises(PlaygroundError) as caught:
            again(tmp_path, run.id)
        assert keys(caught) == ["error.no_run"]
    assert _ids(runs.history(tmp_path)) == [run.id]


def test_of_many_deletions_at_once_one_succeeds_and_nothing_is_lost(run, tmp_path):
    def outcome(action):
        try:
            action(tmp_path, run.id)
            return "moved"
        except PlaygroundError as error:
            return error.problems[0].key

    for action in (runs.delete, runs.restore) * 10:
        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(outcome, [action] * 8))
        assert sorted(outcomes) == ["error.no_run"] * 7 + ["moved"]
    assert (run.adapter / "adapter_model.safetensors").read_bytes() == b"weights"


def test_a_new_run_never_takes_the_id_of_a_deleted_one(tmp_path):
    made = []
    for _ in range(5):
        made.append(runs.create(tmp_path, "load", Settings()))
        runs.delete(tmp_path, made[-1].id)
    assert len({run.id for run in made}) == 5 and len(runs.deleted(tmp_path)) == 5


def test_a_run_that_was_copied_back_by_hand_can_be_deleted_again(run, tmp_path):
    runs.delete(tmp_path, run.id)
    (tmp_path / TRASH / run.id / "old").write_text("")
    run.folder.mkdir()
    run.append("run_started", began=1.0, job="load")
    with pytest.raises(PlaygroundError) as caught:
        runs.restore(tmp_path, run.id)
    assert keys(caught) == ["error.run_exists"]
    runs.delete(tmp_path, run.id)
    assert [folder.name for folder in (tmp_path / TRASH).iterdir()] == [run.id]
    assert [path.name for path in (tmp_path / TRASH / run.id).iterdir()] == ["events.jsonl"]


@pytest.mark.parametrize("moved_before", [True, False])
@pytest.mark.parametrize("move", [runs.delete, runs.restore])
def test_a_run_that_is_moved_while_a_list_is_read_is_in_it_or_in_the_trash(run, tmp_path, move, moved_before):
    if move is runs.restore:
        runs.delete(tmp_path, run.id)

    def read(root):
        if moved_before:
            move(root, run.id)
        found = runs.history(root)
        if not moved_before:
            move(root, run.id)
        return found

    found, gone = runs.with_deleted(tmp_path, read)
    assert run.id in {one.id for one in (*found, *gone)}


def test_an_emptied_trash_frees_the_disk_and_leaves_the_other_runs(run, tmp_path):
    other = runs.create(tmp_path, "load", Settings())
    runs.delete(tmp_path, run.id)
    (tmp_path / TRASH / ".removing-torn").mkdir()  # the app ended while it removed this
    runs.empty_trash(tmp_path)
    assert list((tmp_path / TRASH).iterdir()) == [] and _ids(runs.history(tmp_path)) == [other.id]
    with pytest.raises(PlaygroundError) as caught:
        runs.restore(tmp_path, run.id)
    assert keys(caught) == ["error.no_run"]
    runs.empty_trash(tmp_path / "nowhere")


def test_a_deletion_removes_what_was_deleted_over_a_day_ago_by_the_time_of_its_deletion(tmp_path):
    old, recent, last = (runs.create(tmp_path, "load", Settings()) for _ in range(3))
    os.utime(recent.folder, (0, 0))  # an old run, deleted now
    runs.delete(tmp_path, old.id)
    runs.delete(tmp_path, recent.id)
    _make_older(tmp_path, old.id, KEPT_SECONDS + 60)
    runs.delete(tmp_path, last.id)
    assert set(_ids(runs.deleted(tmp_path))) == {recent.id, last.id}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_told_in_a_sentence(run, tmp_path, monkeypatch, code):
    def refuse(self, *_):
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError) as caught:
        runs.delete(tmp_path, run.id)
    assert [problem.key for problem in as_playground_error(caught.value).problems] == ["error.permission"]
    assert _ids(runs.history(tmp_path)) == [run.id]


@pytest.mark.parametrize("run_id", ["../x", "..", "", f"{TRASH}/x", ".removing-x", None, "x\n"])
def test_an_id_that_is_none_moves_nothing(tmp_path, run_id):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "events.jsonl").write_text("")
    inside = tmp_path / "runs"
    (inside / TRASH / ".removing-x").mkdir(parents=True)
    (inside / TRASH / ".removing-x" / "events.jsonl").write_text("")
    for action in (runs.delete, runs.restore):
        with pytest.raises(PlaygroundError) as caught:
            action(inside, run_id)
        assert keys(caught) == ["error.no_run"]
    assert (tmp_path / "x").is_dir()


def test_a_clock_that_was_set_back_keeps_no_run_in_an_emptied_trash(run, tmp_path):
    runs.delete(tmp_path, run.id)
    _make_older(tmp_path, run.id, -3600)
    runs.empty_trash(tmp_path)
    assert runs.deleted(tmp_path) == []


def test_a_run_that_another_program_deletes_meanwhile_is_none_any_more(run, tmp_path, monkeypatch):
    plain = os.utime

    def faster(path, *arguments, **options):
        os.rename(run.folder, tmp_path / TRASH / run.id)
        plain(path, *arguments, **options)

    monkeypatch.setattr(os, "utime", faster)
    with pytest.raises(PlaygroundError) as caught:
        runs.delete(tmp_path, run.id)
    assert keys(caught) == ["error.no_run"] and _ids(runs.deleted(tmp_path)) == [run.id]
