"""The disk space of a visitor of a shared page while a job writes: refused before, or stopped; what was there stays."""

import errno
import os
from types import SimpleNamespace

import pytest
from toys import keys

from playground import runs
from playground.data import uploads
from playground.engine import visitor_room
from playground.engine.visitor_room import raise_if_no_room, room_left
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.export.order import parse_order
from playground.runs.disk import bytes_in
from playground.settings import Settings
from playground.settings.limits import Limits
from playground.ui import page as ui_page
from playground.ui.page import Page


@pytest.fixture
def chosen(toy, lesson):
    return Settings().with_values({
        "load": {"model": str(toy("llama", chat=True)), "bits": 16, "device": "cpu"},
        "data": {"source": str(lesson)},
        "train": {"max_steps": 3, "batch_size": 4, "max_seq_length": 128, "save_every": 1, "sample_every": "off"},
    })  # fmt: skip


@pytest.fixture
def limit(monkeypatch):
    """Sets a visitor's disk limit in this process."""

    def set_to(disk: float) -> None:
        limits = Limits(disk=round(disk))
        monkeypatch.setattr(visitor_room, "current_limits", lambda: limits)

    return set_to


def test_runs_and_uploads_take_of_a_visitors_room(tmp_path, monkeypatch, limit):
    monkeypatch.setenv("PLAYGROUND_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "ada"
    raise_if_no_room(root, 10**15)  # a private page has no limit
    limit(1000)
    root.mkdir()
    (root / "run").write_bytes(bytes(300))
    file = tmp_path / "rows.csv"
    file.write_bytes(bytes(200))
    uploads.keep(file, "ada")
    assert room_left(root) == 500 and room_left(tmp_path / "bob") == 1000
    raise_if_no_room(root, 500)
    with pytest.raises(PlaygroundError) as refused:
        raise_if_no_room(root, 501)
    assert keys(refused) == ["shared.disk"]
    assert refused.value.problems[0].values == {"size_bytes": 1001, "most_bytes": 1000}


def test_a_fine_tune_whose_result_is_beyond_the_room_is_refused_before_it_trains(chosen, tmp_path, limit):
    limit(50_000)
    with pytest.raises(PlaygroundError) as refused:
        list(Workbench(tmp_path).tune(chosen.with_values({"train": {"method": "full", "lr": 1e-3}})))
    assert keys(refused) == ["shared.disk"]
    run = runs.find(tmp_path, runs.history(tmp_path)[0].id)
    assert not any(event["kind"] == "step" for event in run.events()) and not run.model.exists()


def test_checkpoints_beyond_the_room_are_not_written_and_training_goes_on(chosen, tmp_path, limit, monkeypatch):
    from playground.train import checkpoint

    sizes = []
    monkeypatch.setattr(checkpoint, "size_of", lambda trainer: sizes.append(checkpoint.trained_bytes(trainer)) or 10**9)
    limit(10**8)
    result = list(Workbench(tmp_path).tune(chosen))[-1]["result"]
    run = runs.find(tmp_path, result["run"])
    notes = [event for event in run.events() if event.get("key") == "note.no_checkpoint"]
    assert sizes and len(notes) == 1 and run.adapter.is_dir() and not (run.folder / "checkpoint.pt").exists()
    assert os.strerror(errno.EDQUOT) in notes[0]["values"]["detail"]


def test_an_export_beyond_the_room_is_refused_and_leaves_the_run_as_it_was(chosen, tmp_path, limit):
    workbench = Workbench(tmp_path)
    run = runs.find(tmp_path, list(workbench.tune(chosen))[-1]["result"]["run"])
    for to in ("adapter", "merged", "gguf"):
        before = bytes_in(run.folder)
        limit(bytes_in(tmp_path) + 10_000)
        with pytest.raises(PlaygroundError) as refused:
            list(workbench.export(parse_order({"run": run.id, "to": to}), ""))
        assert keys(refused) == ["shared.disk"] and bytes_in(run.folder) == before
    limit(10**12)
    list(workbench.export(parse_order({"run": run.id, "to": "adapter"}), ""))
    assert (run.folder / "export" / "adapter.zip").is_file()


def test_an_upload_beyond_a_visitors_room_or_everyones_is_refused_and_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ui_page, "MAX_UPLOADS", 3)

    def upload(visitor: str, size: int) -> list[str]:
        """The keys of the refusal; [] for a file that was kept."""
        limits = Limits(disk=1000, disk_of_all=1500)
        page = SimpleNamespace(private=False, visitor=visitor, limits=limits, root=tmp_path / "runs" / visitor)
        file = tmp_path / "rows.csv"
        file.write_bytes(bytes(size))
        try:
            Page.keep_upload(page, str(file))
        except PlaygroundError as error:
            assert not file.exists()
            return [problem.key for problem in error.problems]
        return []

    (tmp_path / "runs" / "ada").mkdir(parents=True)
    (tmp_path / "runs" / "ada" / "run").write_bytes(bytes(400))
    assert upload("ada", 500) == [] and upload("ada", 200) == ["shared.disk"]
    assert upload("bob", 500) == [] and upload("eve", 200) == ["shared.disk_of_all"]
    assert upload("cyd", 1) == upload("cyd", 1) == upload("cyd", 1) == [] and upload("cyd", 1) == ["shared.files"]
    assert uploads.bytes_of_all() == 1003 and upload("ada", 1) == []


def test_a_path_below_a_proxys_root_is_checked_as_any_other():
    from playground.ui.visitors import route_of_gradio

    assert route_of_gradio({"path": "/gradio_api/file=/tmp/x", "root_path": ""}) == "/file=/tmp/x"
    assert route_of_gradio({"path": "/play/gradio_api/file=/tmp/x", "root_path": "/play"}) == "/file=/tmp/x"
    assert (
        route_of_gradio({"path": "/playing/x", "root_path": "/play"}) == "/playing/x"
        and route_of_gradio({"path": "/"}) == "/"
    )
