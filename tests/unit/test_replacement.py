"""What has a name already is kept where something new can't get that name."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from playground.model.saved_adapter import save_lora
from playground.replacement import replace_path


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
