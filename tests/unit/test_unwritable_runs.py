"""Runs whose folder becomes full, read-only or gone: the job goes on, and what it learned is kept and put back."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from toys import keys

from playground import runs
from playground.engine import tune
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError, as_playground_error
from playground.runs import event_log, store
from playground.settings import Settings
from playground.train import checkpoint

ADAPTER = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def own_temp_folder(tmp_path, monkeypatch):
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))


@pytest.fixture
def disk(monkeypatch, tmp_path):
    """`disk["root"] = errno` makes the folder of the runs unwritable, as a full disk or a read-only one is."""
    state: dict[str, int] = {}

    def refused(path) -> None:
        if state and str(path).startswith(str(tmp_path / "runs")):
            raise OSError(state["root"], os.strerror(state["root"]), str(path))

    plain_open, save, write = open, tune.saved_adapter.save_lora, checkpoint.write_whole
    monkeypatch.setattr(event_log, "open", lambda path, mode: (refused(path), plain_open(path, mode))[1], raising=False)
    monkeypatch.setattr(tune.saved_adapter, "save_lora", lambda m, folder: (refused(folder), save(m, folder)))
    monkeypatch.setattr(checkpoint, "write_whole", lambda s, path: (refused(path), write(s, path))[1])
    return state


def events_with(settings: Settings, root: Path, at_step: int, change) -> list[dict]:
    """The events of a fine-tune during which `change` is called after a step."""
    events = []
    for event in Workbench(root).tune(settings):
        events.append(event)
        if event["kind"] == "step" and event["step"] == at_step:
            change()
    return events


def notes_of(events: list[dict]) -> dict[str, dict]:
    return {event["key"]: event["values"] for event in events if event["kind"] == "note"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_what_was_learned_is_saved_elsewhere_and_put_back(chosen, tmp_path, disk, code):
    root = tmp_path / "runs"
    events = events_with(chosen(), root, 2, lambda: disk.update(root=code))
    notes, result = notes_of(events), events[-1]["result"]
    assert notes["note.run_fault"]["path"].endswith("events.jsonl") and result["steps"] == 3
    assert notes["note.run_fault"]["detail"] == os.strerror(code)
    assert notes["note.saved_elsewhere"]["kept"] == result["adapter"] and Path(result["adapter"], ADAPTER).is_file()
    run = runs.history(root)[0]
    assert (run.state, run.has_adapter) == ("open", False)
    disk.clear()
    assert runs.put_back_spares(root) == [run.id] and not list((tmp_path / "temp").iterdir())
    assert (runs.history(root)[0].state, runs.history(root)[0].has_adapter) == ("done", True)
    assert [e["step"] for e in runs.find(root, run.id).events() if e["kind"] == "step"] == [1, 2, 3]
    assert (root / run.id / "adapter" / ADAPTER).is_file() and runs.put_back_spares(root) == []


def test_run_folder_that_is_gone_comes_back_with_its_adapter(chosen, tmp_path):
    root = tmp_path / "runs"
    events = events_with(chosen(), root, 2, lambda: shutil.rmtree(root))
    assert notes_of(events)["note.saved_elsewhere"]["kept"] and not root.exists()
    [run_id] = runs.put_back_spares(root)
    summary = runs.history(root)[0]
    assert (summary.id, summary.state, summary.job, summary.has_adapter) == (run_id, "done", "tune", True)
    assert runs.find(root, run_id).settings() == chosen(load={"bits": 32})


def test_disk_that_has_room_again_gets_every_event_and_no_spare_folder_is_left(chosen, tmp_path, disk):
    root = tmp_path / "runs"
    seen = []

    def toggle():
        seen.append(1)
        disk.update(root=errno.ENOSPC) if len(seen) == 1 else disk.clear()

    events = []
    for event in Workbench(root).tune(chosen(train={"max_steps": 6})):
        events.append(event)
        if event["kind"] == "step" and event["step"] in (2, 4):
            toggle()
    assert "note.run_fault" in notes_of(events) and "note.saved_elsewhere" not in notes_of(events)
    run = runs.find(root, runs.history(root)[0].id)
    assert [e["step"] for e in run.events() if e["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert run.adapter.is_dir() and not list((tmp_path / "temp").iterdir())


def test_without_any_folder_the_adapter_stays_in_memory(chosen, tmp_path, disk, monkeypatch):
    root = tmp_path / "runs"
    monkeypatch.setattr(store, "make_spare", lambda *arguments: None)
    workbench = Workbench(root)
    events = []
    for event in workbench.tune(chosen()):
        events.append(event)
        if event["kind"] == "step":
            disk.update(root=errno.ENOSPC)
    assert {"note.run_fault_memory", "note.not_saved"} <= notes_of(events).keys()
    assert workbench._slot.adapter is not None and "adapter" not in events[-1]["result"]


def test_stop_on_a_full_disk_keeps_a_checkpoint_that_resumes_once_it_is_put_back(chosen, tmp_path, disk):
    root, workbench = tmp_path / "runs", Workbench(tmp_path / "runs")
    settings = chosen(train={"max_steps": 6})
    for event in workbench.tune(settings):
        if event["kind"] == "step" and event["step"] == 3:
            disk.update(root=errno.ENOSPC)
            workbench.stop.set()
    assert event["result"]["stopped"] and event["result"]["checkpoint"]
    disk.clear()
    [run_id] = runs.put_back_spares(root)
    [done] = [e for e in Workbench(root).resume(run_id) if e["kind"] == "done"]
    assert (done["result"]["steps"], done["result"]["stopped"]) == (6, False)


def test_folder_that_cannot_be_written_from_the_start_is_one_sentence_with_its_name(chosen, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:
        list(Workbench(tmp_path / "file" / "runs").tune(chosen()))
    shown = as_playground_error(caught.value)
    assert [one.key for one in shown.problems] == ["error.file"] and str(tmp_path / "file") in shown.text()


def test_clock_that_is_set_back_or_forward_does_not_move_events(chosen, tmp_path, monkeypatch):
    run = runs.create(tmp_path, "tune", chosen())
    import time

    now = time.time()
    for jump in (-86400, 86400, 0):
        monkeypatch.setattr("playground.runs.store.time.time", lambda jump=jump: now + jump)
        run.append("note", key="k", values={})
    times = [event["t"] for event in run.events()]
    assert times == sorted(times) and times[-1] < 60
    again = runs.Run(run.folder)
    monkeypatch.setattr("playground.runs.store.time.time", lambda: now - 86400)
    assert again.append("note", key="k", values={})["t"] >= times[-1]


def test_run_is_written_by_one_program_alone(chosen, tmp_path):
    run = runs.create(tmp_path, "tune", chosen())
    with runs.locked(run):
        for refused in (lambda: runs.locked(runs.Run(run.folder)).__enter__(), lambda: runs.delete(tmp_path, run.id)):
            with pytest.raises(PlaygroundError) as caught:
                refused()
            assert keys(caught) == ["error.run_held"] and str(os.getpid()) in str(caught.value)
    assert not runs.is_held(run)
    runs.delete(tmp_path, run.id)
    assert not list((tmp_path / ".locks").iterdir())
