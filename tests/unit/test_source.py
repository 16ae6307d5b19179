"""Where models come from: found here without a network, refused clearly, never half there."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from huggingface_hub.utils import filter_repo_objects
from test_weights import write_gguf
from toys import PROJECT, keys

from playground import catalog
from playground.errors import PlaygroundError
from playground.model import hub, source, wheels


def _told(model, accept=False):
    with pytest.raises(PlaygroundError) as caught:
        list(source.fetch_model(model, accept, threading.Event()))
    assert caught.value.text("ja")
    return keys(caught)[0], str(caught.value)


def test_a_folder_is_used_as_it_is_without_an_event(toy):
    steps = source.fetch_model(str(toy()), False, threading.Event())
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == toy().resolve()


@pytest.mark.parametrize("name,key", [("/nowhere/model", "error.no_folder"), ("./nowhere", "error.no_folder")])
def test_a_folder_that_is_none_is_told(name, key):
    assert _told(name)[0] == key


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.txt").write_text("")
    assert _told(str(tmp_path / "model.txt"))[0] == "error.no_folder"


def test_an_empty_folder_is_told(tmp_path):
    assert _told(str(tmp_path))[0] == "error.no_model"


@pytest.mark.parametrize(
    "name", ["what is this", "a/b/c", "x/y!", "a//b", "../x/y/z", "name/", "https://huggingface.co/x/y"]
)
def test_what_can_be_no_hub_id_is_told_with_what_works_offline(name):
    key, text = _told(name)
    assert key in ("error.model_name", "error.no_folder")
    assert key == "error.no_folder" or "smollm2-135m-instruct" in text


@pytest.mark.parametrize("name", ["smollm2-135m-instrukt", "gpt2", "sshleifer/tiny-gpt2"])
def test_a_hub_that_is_off_is_said_at_once_with_what_works_offline(name):
    began = time.monotonic()
    key, text = _told(name)
    assert key == "error.hub_unreachable" and name in text and all(m in text for m in catalog.offline_models())
    assert time.monotonic() - began < 30


def test_terms_must_be_accepted_before_anything_is_fetched():
    name = next(k for k, e in catalog.models().items() if e.get("terms"))
    key, text = _told(name)
    assert key == "error.terms" and catalog.models()[name]["terms"]["url"] in text


def test_a_model_of_the_catalog_is_found_where_it_was_converted_to(tmp_path, monkeypatch, toy):
    monkeypatch.setenv("PLAYGROUND_CACHE", str(tmp_path))
    name, entry = next((k, e) for k, e in catalog.models().items() if catalog.source_of(e, "folder"))
    assert source.local_folder(name) is None
    shutil.copytree(toy(), tmp_path / catalog.source_of(entry, "folder"))
    assert source.local_folder(name) == tmp_path / catalog.source_of(entry, "folder")


def test_a_file_with_another_checksum_is_removed_and_told(tmp_path):
    file = tmp_path / "a.whl"
    file.write_bytes(b"whole")
    wheels.verify_sha256(file, hashlib.sha256(b"whole").hexdigest(), "a")
    assert file.read_bytes() == b"whole"
    with pytest.raises(PlaygroundError) as caught:
        wheels.verify_sha256(file, "0" * 64, "a")
    assert keys(caught) == ["error.damaged"] and not file.exists()


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """The folder of a repo a/b in the hub's cache, which has a config and no weights."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(file_download, "HF_HUB_CACHE", str(tmp_path), raising=False)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "refs").mkdir()
    (tmp_path / "models--a--b" / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text("{}")
    return snapshot


def _shards(kind: str) -> list[str]:
    return [f"{kind.replace('.', f'-0000{number}-of-00002.')}" for number in (1, 2)]


def _write_index(folder, kind: str) -> None:
    index = {"weight_map": dict(zip("ab", _shards(kind)))}
    (folder / f"{kind}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("weights", [[], ["model-00001-of-00002.safetensors"]])
def test_a_repo_that_was_fetched_half_does_not_count_as_here(snapshot, weights):
    for name in weights:
        (snapshot / name).write_bytes(b"")
    _write_index(snapshot, "model.safetensors")
    assert hub.cached_folder("a/b") is None
    for name in _shards("model.safetensors"):
        (snapshot / name).write_bytes(b"")
    assert hub.cached_folder("a/b") == snapshot


@pytest.mark.parametrize("here", [_shards("model.safetensors"), ["model.safetensors"]])
def test_an_index_of_bin_files_that_were_not_fetched_asks_for_nothing(snapshot, here):
    _write_index(snapshot, "pytorch_model.bin")
    assert hub.cached_folder("a/b") is None
    if len(here) > 1:
        _write_index(snapshot, "model.safetensors")
    for name in here:
        assert hub.cached_folder("a/b") is None
        (snapshot / name).write_bytes(b"")
    assert hub.cached_folder("a/b") == snapshot


def test_a_repo_whose_index_is_damaged_is_left_to_its_checksum(snapshot):
    (snapshot / "model.safetensors.index.json").write_text("[]")
    assert hub.cached_folder("a/b") == snapshot


def test_weights_in_the_format_of_another_library_are_not_downloaded(snapshot, monkeypatch):
    import huggingface_hub

    foreign, asked = ["consolidated.safetensors", "config.json"], []
    files = [SimpleNamespace(rfilename=name) for name in foreign]
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=files))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda _, **named: asked.append(named) or str(snapshot))
    with pytest.raises(PlaygroundError) as caught:
        list(hub.download_model("a/b", threading.Event()))
    assert keys(caught) == ["error.no_weights_hub"] and not asked
    for name, patterns in (("pytorch_model.bin", ["*.bin"]), ("model.safetensors", [])):
        files.append(SimpleNamespace(rfilename=name))
        list(hub.download_model("a/b", threading.Event()))
        fetched = filter_repo_objects(
            [*foreign, name], allow_patterns=asked[-1]["allow_patterns"], ignore_patterns=asked[-1]["ignore_patterns"]
        )
        assert list(fetched) == ["config.json", name]
        assert asked[-1]["allow_patterns"] == [*hub.MODEL_FILES, *patterns]
    (snapshot / "consolidated.safetensors").write_bytes(b"")
    assert hub.cached_folder("a/b") is None


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_conversion_that_is_killed_leaves_no_model_behind(tmp_path, how):
    """Killed while writing, at the moment the weights are there but the tokenizer isn't."""
    code = """
import sys, time
from pathlib import Path
from transformers import AutoTokenizer
from playground.model import gguf
file, folder = map(Path, sys.argv[1:])
class Slow:
    def save_pretrained(self, where):
        print("half", flush=True)
        time.sleep(60)
AutoTokenizer.from_pretrained = lambda *a, **k: Slow()
gguf.convert(file, folder, lambda *_: None)
"""
    write_gguf(tmp_path / "model.gguf")
    folder = tmp_path / "models" / "toy"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "model.gguf"), str(folder)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ,
    ) as process:
        assert process.stdout.readline().strip() == "half"
        process.send_signal(how)
        process.wait(20)
    [partial] = folder.parent.glob("toy.*.partial")
    assert not folder.exists() and (partial / "model.safetensors").is_file()
