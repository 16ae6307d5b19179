"""What has a name already is kept where something new can't get that name."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from playground.model.saved_adapter import save_lora
from playground.replacement import new_folder, replace_path


class _Adapter:
    """A model of which only the saving is used."""

    def save_pretrained(self, folder: str) -> None:
        os.makedirs(folder)
        save_file({"q_proj.lora_B.weight": torch.ones(2, 2)}, f"{folder}/adapter_model.safetensors")


@pytest.fixture
def renaming_fails(monkeypatch):
    """No `…partial` can be renamed, as where a virus scanner holds a file of it open."""
    rename = os.replace

    def replace(source, target):
        if str(source).endswith(".partial"):
            raise OSError("in use")
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(Path, "replace", replace)


def test_the_adapter_before_stays_where_the_new_one_cannot_be_renamed(tmp_path, renaming_fails):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/old").touch()
    with pytest.raises(OSError, match="in use"):
        save_lora(_Adapter(), tmp_path / "adapter")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["adapter", "adapter/old"]


def test_what_was_replaced_is_put_aside(tmp_path):
    for name in ("new", "model"):
        (tmp_path / name).write_text(name)
    replace_path(tmp_path / "new", tmp_path / "model", tmp_path / "old")
    assert (tmp_path / "model").read_text() == "new" and (tmp_path / "old").read_text() == "model"


def test_a_folder_that_could_not_be_written_leaves_nothing_and_the_one_before(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with pytest.raises(OSError) as caught, new_folder(tmp_path / "model") as partial:
        (partial / "new").touch()
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "model")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["model", "model/old"]


def test_two_processes_write_the_same_folder_apart(tmp_path):
    other = tmp_path / "model.1.partial"
    other.mkdir()
    with new_folder(tmp_path / "model") as partial:
        (partial / "new").touch()
    assert (tmp_path / "model" / "new").is_file() and other.is_dir() and not partial.exists()


def test_what_a_killed_process_left_goes_with_the_next_attempt_and_a_live_ones_stays(tmp_path):
    dead, fresh, own, live = (tmp_path / f"model.{number}.partial" for number in (2**22 + 1, 2**22 + 2, os.getpid(), 1))
    for folder in (dead, fresh, own, live):
        folder.mkdir()
        (folder / "half").write_text("x")
    for folder in (dead, live):
        for path in (folder / "half", folder):
            os.utime(path, (1, 1))
    with new_folder(tmp_path / "model") as partial:
        (partial / "whole").write_text("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", live.name, fresh.name]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["whole"]
