"""Runs whose folder becomes full, read-only or gone: the job goes on, and what it learned is kept and put back."""

import errno
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from toys import keys

from playground import runs
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError, as_playground_error
from playground.model import saved_adapter
from playground.runs import event_log, spare, store
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

    plain_open, save, write = open, saved_adapter.save_lora, checkpoint.write_whole
    monkeypatch.setattr(event_log, "open", lambda path, mode: (refused(path), plain_open(path, mode))[1], raising=False)
    monkeypatch.setattr(saved_adapter, "save_lora", lambda m, folder: (refused(folder), save(m, folder)))
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


def test_the_page_puts_back_what_visitors_runs_wrote_elsewhere_too(tmp_path, monkeypatch):
    root = tmp_path / "runs"
    made = [runs.create(folder, "tune", Settings()) for folder in (root, root / store.VISITORS / "ada")]
    for run in made:
        (run.spare() / "checkpoint.pt").write_bytes(b"1")
    (root / store.VISITORS / "secret").write_text("")
    assert runs.put_back_all_spares(root) == [run.id for run in made]
    assert all((run.folder / "checkpoint.pt").is_file() for run in made) and not list((tmp_path / "temp").iterdir())


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


def step_in(folder: Path) -> int:
    """The step of the checkpoint in a folder."""
    return torch.load(folder / checkpoint.NAME, weights_only=True)["step"]


def test_a_finished_fine_tune_that_is_not_saved_keeps_its_checkpoint_and_is_resumed(
    chosen, tmp_path, disk, monkeypatch
):
    root = tmp_path / "runs"
    monkeypatch.setattr(store, "make_spare", lambda *arguments: None)
    settings = chosen(train={"save_every": 1})
    events = events_with(settings, root, 3, lambda: disk.update(root=errno.ENOSPC))
    assert "note.not_saved" in notes_of(events) and events[-1]["result"]["checkpoint"]
    run = runs.find(root, events[-1]["result"]["run"])
    assert step_in(run.folder) == 2
    disk.clear()
    [done] = [e["result"] for e in Workbench(root).resume(run.id) if e["kind"] == "done"]
    assert (done["steps"], Path(done["adapter"])) == (3, run.adapter)
    assert not done["checkpoint"] and not (run.folder / checkpoint.NAME).exists()


def test_a_result_that_only_failed_to_be_saved_needs_no_step_again(chosen, tmp_path, monkeypatch):
    def full(model, folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    monkeypatch.setattr(saved_adapter, "save_lora", full)
    events = list(Workbench(tmp_path / "runs").tune(chosen()))
    assert "note.not_saved" in notes_of(events) and events[-1]["result"]["checkpoint"]
    assert step_in(tmp_path / "runs" / events[-1]["result"]["run"]) == 3


def test_memory_that_runs_out_while_saving_is_not_called_a_full_disk(chosen, tmp_path, monkeypatch):
    def short_of_memory(model, folder):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes.")

    monkeypatch.setattr(saved_adapter, "save_lora", short_of_memory)
    with pytest.raises(PlaygroundError) as caught:
        list(Workbench(tmp_path / "runs").tune(chosen()))
    assert keys(caught)[0] == "error.out_of_memory"


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),  # as tokenizers (Rust) says it
    ],
)
def test_a_full_disk_in_the_words_of_rust_saves_elsewhere(chosen, tmp_path, monkeypatch, error):
    save = saved_adapter.save_lora

    def full(model, folder):
        if folder.is_relative_to(tmp_path / "runs"):
            raise error
        save(model, folder)

    monkeypatch.setattr(saved_adapter, "save_lora", full)
    events = list(Workbench(tmp_path / "runs").tune(chosen(train={"max_steps": 1})))
    note, run = notes_of(events)["note.saved_elsewhere"], events[-1]["result"]["run"]
    assert note["detail"].startswith(f"The disk is full: {tmp_path / 'runs' / run / 'adapter'} ")
    assert Path(note["kept"], ADAPTER).is_file()


def test_a_checkpoint_in_the_runs_folder_outdates_the_spare_one(chosen, tmp_path, disk):
    root, workbench = tmp_path / "runs", Workbench(tmp_path / "runs")
    for event in workbench.tune(chosen(train={"max_steps": 8, "save_every": 2})):
        if event["kind"] == "step":
            disk.update(root=errno.ENOSPC) if event["step"] == 2 else disk.clear()
            if event["step"] == 3:
                [kept] = (tmp_path / "temp").glob("*/checkpoint.pt")
                assert step_in(kept.parent) == 2
            elif event["step"] == 5:
                workbench.stop.set()
    assert event["result"]["checkpoint"] and not list((tmp_path / "temp").iterdir())
    runs.put_back_spares(root)
    assert step_in(root / event["result"]["run"]) == 5


@pytest.mark.parametrize("spare_age,expected", [(60, "of the run's folder"), (-60, "of the spare folder")])
def test_what_is_put_back_never_replaces_something_newer(tmp_path, spare_age, expected):
    folder, spare_folder = tmp_path / "runs" / "one", tmp_path / "spare"
    for place, text in ((folder, "of the run's folder"), (spare_folder, "of the spare folder")):
        (place / "adapter").mkdir(parents=True)
        for path in (place / "adapter" / ADAPTER, place / checkpoint.NAME, place / "settings.json"):
            path.write_text(text)
    then = time.time() - spare_age
    for path in (spare_folder / "adapter", spare_folder / checkpoint.NAME):
        os.utime(path, (then, then))
    assert spare.put_back(tmp_path / "runs", "one", spare_folder) and not spare_folder.exists()
    assert {(folder / checkpoint.NAME).read_text(), (folder / "adapter" / ADAPTER).read_text()} == {expected}


def test_folder_that_cannot_be_written_from_the_start_is_one_sentence_with_its_name(chosen, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:
        list(Workbench(tmp_path / "file" / "runs").tune(chosen()))
    shown = as_playground_error(caught.value)
    assert [one.key for one in shown.problems] == ["error.file"] and str(tmp_path / "file") in shown.text()


def test_clock_that_is_set_back_or_forward_does_not_move_events(chosen, tmp_path, monkeypatch):
    run = runs.create(tmp_path, "tune", chosen())
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
