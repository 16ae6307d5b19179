"""A run that has ended goes into Trackio: metrics, memory and settings; without paths, once, and over no network.

Where Trackio isn't installed, the tests that need it are skipped: pip install trackio.
"""

import importlib.util
import json
import socket

import pytest

from playground import compat_trackio, runs
from playground.__main__ import main
from playground.errors import PlaygroundError
from playground.runs.recordings import FOLDER, replay
from playground.settings import Settings
from playground.share import trackio_import
from playground.share.trackio_import import import_run, metrics_of

GIB = 2**30
BEGAN = 1_780_000_000.0
needs_trackio = pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="pip install trackio")


@pytest.fixture
def run(tmp_path):
    """A resumed fine-tune of two steps, the second of which was made twice, on a model in a private folder."""
    load = {"model": "/home/somebody/secret/my-model", "bits": 4}
    settings = Settings().with_values({"load": load, "lora": {"start_from": "~/private/adapter-1"}})
    hardware = {"device": "cpu", "name": "CPU", "cores": 2}
    made = runs.create(tmp_path / "runs", "tune", settings, hardware=hardware, versions={"torch": "2.13"})
    events = [
        {"t": 1.0, "kind": "eval", "when": "before", "loss": 4.0},
        *({"t": 2 + n / 10, "kind": "memory", "rss": GIB + n, "parts": {"weights": GIB // 2}} for n in range(1500)),
        {"t": 3.0, "kind": "step", "step": 1, "loss": 3.5, "lr": 0.01, "tokens": 10, "tokens_per_s": 5.0, "left_s": 1},
        {"t": 4.0, "kind": "step", "step": 2, "loss": 9.9, "lr": 0.02, "tokens": 20, "tokens_per_s": None},
        {"t": 5.0, "kind": "step", "step": 2, "loss": 2.5, "lr": 0.02, "tokens": 20, "tokens_per_s": None},
        {"t": 5.5, "kind": "eval", "when": "during", "step": 2, "loss": 2.0},
        {"t": 5.6, "kind": "step", "step": "two", "loss": 1.0},
        {"t": 6.0, "kind": "eval", "when": "after", "loss": 1.5},
        {"t": 7.0, "kind": "eval", "when": "measures", "figures": {"chrf": {"base": 10.0, "tuned": 80.0}, "x": 1}},
        {"t": 8.0, "kind": "memory_predicted", "phase": "tune", "rss": 2 * GIB, "parts": {}},
        {"t": 8.0, "kind": "memory_measured", "phase": "tune", "peak": {"rss": 3 * GIB}, "parts": {}},
        {"t": 9.0, "kind": "done", "job": "tune", "result": {"seconds": 9.0, "loss": {"before": 4.0, "after": 1.5}}},
    ]
    file = made.folder / "events.jsonl"
    first = json.loads(file.read_text(encoding="utf-8")) | {"began": BEGAN}
    file.write_text("".join(json.dumps(event) + "\n" for event in [first, *events]), encoding="utf-8")
    return runs.Run(made.folder)


@pytest.fixture
def trackio(tmp_path, monkeypatch):
    """Trackio in an empty folder, with a network that fails the test that uses it."""
    trackio = pytest.importorskip("trackio")
    from trackio import sqlite_storage, utils

    opened = []

    def refuse(*asked):
        opened.append(asked)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("trackio.bucket_storage.download_bucket_to_trackio_dir", refuse)
    monkeypatch.setenv("TRACKIO_BUCKET_ID", "somebody/bucket")
    monkeypatch.setattr(sqlite_storage.SQLiteStorage, "_dataset_import_attempted", False)
    for module in (sqlite_storage, utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    yield trackio
    assert not opened  # Trackio itself passes over a download that fails


def _metrics(run):
    return metrics_of(list(run.events()), runs.summary(run.folder.parent, run.id))


def test_steps_evaluations_and_memory_become_metrics_at_their_steps(run):
    rows = {}
    for step, time, values in _metrics(run).rows:
        rows.setdefault(step, {}).update(values)
        assert BEGAN < time < BEGAN + 10
    assert rows == {
        0: {"eval/loss": 4.0, "eval/chrf": 10.0},
        1: {"train/loss": 3.5, "train/learning_rate": 0.01, "train/num_tokens": 10, "train/tokens_per_second": 5.0},
        2: {
            "train/loss": 2.5,
            "train/learning_rate": 0.02,
            "train/num_tokens": 20,
            "eval/loss": 1.5,
            "eval/chrf": 80.0,
        },
    }


def test_memory_is_thinned_in_gib(run):
    samples = _metrics(run).samples
    assert 300 < len(samples) <= trackio_import.MAX_SAMPLES + 1
    assert samples[0][1]["memory/rss_gib"] == pytest.approx(1) and samples[0][1]["memory/parts/weights_gib"] == 0.5


def test_the_config_has_the_settings_and_no_path(run):
    config = _metrics(run).config
    assert config["load.model"] == "my-model" and config["lora.start_from"] == "adapter-1"
    assert config["load.bits"] == 4 and config["train.lr"] == Settings().train.lr
    assert config["hardware.cores"] == 2 and config["versions.torch"] == "2.13" and config["state"] == "done"
    assert (config["memory.predicted_gib"], config["memory.measured_gib"]) == (2, 3)
    assert not [value for value in config.values() if "secret" in str(value) or "private" in str(value)]


def test_a_missing_trackio_is_one_sentence(run, monkeypatch):
    monkeypatch.setattr(compat_trackio, "is_installed", lambda: False)
    with pytest.raises(PlaygroundError, match="pip install trackio"):
        import_run(run.folder.parent, run.id)


@pytest.mark.parametrize("project", ["my.model", "a/b", "x" * 51])
def test_a_project_that_trackio_would_rename_is_refused(run, project, monkeypatch):
    monkeypatch.setattr(compat_trackio, "is_installed", lambda: True)
    with pytest.raises(PlaygroundError, match="Trackio project"):
        import_run(run.folder.parent, run.id, project)


def test_a_run_without_steps_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(compat_trackio, "is_installed", lambda: True)
    made = runs.create(tmp_path, "load", Settings())
    made.append("done", job="load", result={})
    with pytest.raises(PlaygroundError, match="no training steps"):
        import_run(tmp_path, made.id)


def test_a_run_that_is_still_written_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(compat_trackio, "is_installed", lambda: True)
    monkeypatch.setattr(runs, "is_written_to", lambda run: True)
    made = runs.create(tmp_path, "tune", Settings())
    made.append("step", step=1, loss=1.0)
    with pytest.raises(PlaygroundError, match="still going"):
        import_run(tmp_path, made.id)


@needs_trackio
def test_a_run_is_read_back_from_trackio_and_imported_again_replaces_it(run, trackio):
    """The contract with Trackio's storage: a failure here names what a new version changed."""
    runs.write_label(run.folder.parent, run.id, "Café / 'first' 🎚️", "")
    first = import_run(run.folder.parent, run.id)
    assert (first["steps"], first["evaluations"], first["replaced"]) == (2, 2, False)
    runs.write_label(run.folder.parent, run.id, "renamed", "")
    again = import_run(run.folder.parent, run.id)
    assert again["replaced"] and {**again, "replaced": False, "name": first["name"]} == first
    (found,) = trackio.Api().runs(trackio_import.PROJECT)
    assert (found.id, found.name) == (run.id, "renamed") and found.config["load.bits"] == 4
    from trackio.sqlite_storage import SQLiteStorage as storage

    logs = storage.get_logs(trackio_import.PROJECT, run_id=run.id)
    losses = [log["train/loss"] for log in logs if "train/loss" in log]
    assert losses == [3.5, 2.5] and len(logs) == 6
    assert logs[0]["timestamp"].startswith("2026-05-28T20:26:4")
    memory = storage.get_system_logs(trackio_import.PROJECT, run_id=run.id)
    assert len(memory) == first["memory_samples"] and memory[0]["memory/parts/weights_gib"] == 0.5


@needs_trackio
def test_another_run_of_the_same_id_is_not_replaced(run, trackio):
    import_run(run.folder.parent, run.id)
    file = run.folder / "events.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace(str(BEGAN), str(BEGAN + 60)), encoding="utf-8")
    with pytest.raises(PlaygroundError, match="another run with the id"):
        import_run(run.folder.parent, run.id)
    assert not import_run(run.folder.parent, run.id, "other")["replaced"]


@needs_trackio
def test_a_reserved_project_and_an_unwritable_folder_are_sentences(run, trackio, tmp_path, monkeypatch):
    with pytest.raises(PlaygroundError, match="refuses the project registry-x"):
        import_run(run.folder.parent, run.id, "registry-x")
    (tmp_path / "trackio").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(PlaygroundError, match="couldn't be written"):
        import_run(run.folder.parent, run.id)


@needs_trackio
def test_the_command_ends_in_one_json_object(tmp_path, trackio, capsys):
    made = replay(FOLDER / "demo-en.jsonl", tmp_path)
    main(["trackio", made.id, "--runs", str(tmp_path), "--project", "talk"])
    out = capsys.readouterr()
    result = json.loads(out.out)
    assert result["project"] == "talk" and result["steps"] > 50 and result["memory_samples"] > 100
    assert "trackio show --project talk" in out.err and len(trackio.Api().runs("talk")) == 1
