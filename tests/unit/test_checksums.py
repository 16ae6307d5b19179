"""Files of the hub's cache are checked against their checksums; a damaged one is named and downloaded again."""

import hashlib
import os
import shutil
import threading
from pathlib import Path

import pytest
from toys import keys

from playground import catalog
from playground.background import Stopped
from playground.errors import PlaygroundError, problem
from playground.model import checksums, hub, source


@pytest.fixture
def cached(toy, tmp_path, monkeypatch) -> Path:
    """A snapshot as the hub's cache has it: links to blobs that are named by their checksums."""
    monkeypatch.setattr(catalog, "cache_folder", lambda: tmp_path / "cache")
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir(), snapshot.mkdir()
    for file in toy("llama").iterdir():
        data = file.read_bytes()
        large = file.suffix == ".safetensors"
        name = hashlib.sha256(data) if large else hashlib.sha1(f"blob {len(data)}\0".encode() + data)
        (blobs / name.hexdigest()).write_bytes(data)
        (snapshot / file.name).symlink_to(blobs / name.hexdigest())
    return snapshot


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.resolve().write_bytes(data)


def test_whole_files_are_read_once(cached, monkeypatch):
    assert checksums.damaged_files(cached) == []
    monkeypatch.setattr(checksums, "_digest", lambda *arguments: pytest.fail("read again"))
    assert checksums.damaged_files(cached) == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("damage", [flip_a_bit, lambda file: os.truncate(file, file.stat().st_size - 7)])
def test_flipped_bit_and_cut_are_found(cached, name, damage):
    checksums.damaged_files(cached)
    damage(cached / name)
    assert checksums.damaged_files(cached) == [cached / name] == checksums.damaged_files(cached)


def fetch(monkeypatch, cached: Path, download) -> tuple[list[dict], Path]:
    monkeypatch.setattr(source, "local_folder", lambda model: cached)
    monkeypatch.setattr(hub, "download_model", download)
    events, steps = [], source.fetch_model("some/model", False, threading.Event())
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return events, end.value


def test_damaged_file_is_downloaded_again(cached, monkeypatch):
    whole = (cached / "model.safetensors").read_bytes()
    flip_a_bit(cached / "model.safetensors")
    monkeypatch.setattr(hub, "check_access", lambda repo: None)

    def download(repo, stop):
        assert repo == "some/model" and not (cached / "model.safetensors").exists()
        (cached / "model.safetensors").write_bytes(whole)
        yield {"kind": "progress", "done": 1, "total": 1, "unit": "bytes"}
        return cached

    events, folder = fetch(monkeypatch, cached, download)
    [note] = [event for event in events if event["kind"] == "note"]
    assert (note["key"], note["values"]["path"]) == ("note.damaged_fetched", str(cached / "model.safetensors"))
    assert folder == cached and checksums.damaged_files(cached) == []


def test_damaged_file_without_a_hub_is_named_and_kept(cached, monkeypatch):
    flip_a_bit(cached / "model.safetensors")

    def unreachable(repo):
        raise problem("error.hub_broke", repo=repo, detail="offline")

    monkeypatch.setattr(hub, "check_access", unreachable)
    with pytest.raises(PlaygroundError) as caught:
        fetch(monkeypatch, cached, None)
    assert keys(caught) == ["error.damaged_file", "error.hub_broke"]
    assert str(cached / "model.safetensors") in str(caught.value) and (cached / "model.safetensors").exists()


@pytest.fixture
def downloaded(toy, tmp_path, monkeypatch) -> Path:
    """A folder as `hf download --local-dir` writes it, of two files of weights."""
    monkeypatch.setattr(catalog, "cache_folder", lambda: tmp_path / "cache")
    folder = tmp_path / "downloaded"
    shutil.copytree(toy("llama"), folder)
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    for name in ("model", "other"):
        note(folder / f"{name}.safetensors", hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest())
    return folder


def note(file: Path, digest: str) -> None:
    notes = file.parent / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True, exist_ok=True)
    (notes / f"{file.name}.metadata").write_text(f"0123456789\n{digest}\n1795649853.4\n")


def test_changed_file_of_a_downloaded_folder_is_named(downloaded):
    assert checksums.changed_files(downloaded) == []
    flip_a_bit(downloaded / "model.safetensors")
    assert checksums.changed_files(downloaded) == [downloaded / "model.safetensors"]


def test_files_of_a_downloaded_folder_are_read_once(downloaded, monkeypatch):
    flip_a_bit(downloaded / "model.safetensors")
    assert checksums.changed_files(downloaded) == [downloaded / "model.safetensors"]
    monkeypatch.setattr(checksums, "_digest", lambda *arguments: pytest.fail("read again"))
    assert checksums.changed_files(downloaded) == [downloaded / "model.safetensors"]
    note(downloaded / "model.safetensors", hashlib.sha256((downloaded / "model.safetensors").read_bytes()).hexdigest())
    assert checksums.changed_files(downloaded) == []


def test_reading_a_downloaded_folder_is_shown_and_can_be_stopped(downloaded, monkeypatch):
    size, shown = (downloaded / "model.safetensors").stat().st_size, []
    checksums.changed_files(downloaded, lambda done, total: shown.append((done, total)))
    assert shown == [(size, 2 * size), (2 * size, 2 * size)]
    (catalog.cache_folder() / checksums.MEMORY).unlink()
    flip_a_bit(downloaded / "other.safetensors")
    stop, read, files = threading.Event(), checksums._digest, []

    def read_and_stop(file, *of):
        files.append(file.name)
        if file.name.startswith("other"):
            stop.set()
        return read(file, *of)

    monkeypatch.setattr(checksums, "_digest", read_and_stop)
    with pytest.raises(Stopped):
        list(source.fetch_model(str(downloaded), False, stop))
    events = list(source.fetch_model(str(downloaded), False, threading.Event()))
    assert files == ["model.safetensors", "other.safetensors", "other.safetensors"]  # what was read isn't read again
    notes = [event["values"]["path"] for event in events if event["kind"] == "note"]
    assert notes == [str(downloaded.resolve() / "other.safetensors")]
