"""Files of the hub's cache are checked against their checksums; a damaged one is named and downloaded again."""

import hashlib
import os
import threading
from pathlib import Path

import pytest
from toys import keys

from playground import catalog
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


def test_changed_file_of_a_downloaded_folder_is_named(toy, tmp_path):
    data = (toy("llama") / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data)
    notes = tmp_path / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    digest = hashlib.sha256(data).hexdigest()
    (notes / "model.safetensors.metadata").write_text(f"0123456789\n{digest}\n1795649853.4\n")
    assert list(checksums.changed_files(tmp_path)) == []
    flip_a_bit(tmp_path / "model.safetensors")
    assert list(checksums.changed_files(tmp_path)) == [tmp_path / "model.safetensors"]
