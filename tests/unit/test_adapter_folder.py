"""Adapters beside and in place of a model: the base alone, or base and adapter merged; never the adapter in silence."""

import errno
import json
import shutil
import threading

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_generate import load, with_adapter
from toys import keys
from transformers import AutoModelForCausalLM

from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.model import saved_adapter
from playground.model.adapter_folder import merge
from playground.model.load import load_model
from playground.model.source import config_file, fetch_model, local_folder
from playground.planning.forecast import forecast
from playground.settings import Load


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("playground.catalog.cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def adapter(toy, tmp_path):
    """A folder with an adapter for the toy model, and the logits of both together."""
    model = with_adapter(load(toy(), 32)).model
    saved_adapter.save_lora(model, tmp_path / "adapter")
    return tmp_path / "adapter", logits(model)


def logits(model):
    with torch.no_grad():
        return model(torch.arange(3, 20)[None]).logits.float()


def fetched(model) -> str:
    events = fetch_model(str(model), False, threading.Event())
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


def test_a_folder_with_an_adapter_beside_the_model_loads_the_base_alone(chosen, toy, adapter, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(toy(), folder)
    for file in adapter[0].iterdir():
        shutil.copy(file, folder)
    model = load(folder, 32).model
    assert torch.equal(logits(model), logits(load(toy(), 32).model)) and not hasattr(model, "peft_config")
    events = list(Workbench(tmp_path / "runs").load(chosen(load={"model": str(folder), "bits": 4})))
    assert [e["values"] for e in events if e.get("key") == "note.adapter_ignored"] == [{"path": "both"}]


def test_an_adapter_given_as_model_is_merged_into_its_base(chosen, toy, adapter, tmp_path):
    folder, expected = adapter
    assert config_file(str(folder)) == toy() / "config.json" and local_folder(str(folder)) is None
    merged = fetched(folder)
    assert local_folder(str(folder)) == merged == fetched(folder)
    model = load_model(merged, Load(model=str(merged), bits=32, device="cpu"), lambda *_: None).model
    difference = (logits(model) - expected).norm() / expected.norm()
    base = (logits(load(toy(), 32).model) - expected).norm() / expected.norm()
    assert difference < 0.05 < 0.2 < base  # the merged weights are rounded to bfloat16
    events = list(Workbench(tmp_path / "runs").tune(chosen(load={"model": str(folder)})))
    assert events[-1]["kind"] == "done"
    assert [e["values"] for e in events if e.get("key") == "note.adapter_merged"] == [{"base": str(toy())}]


@pytest.mark.parametrize(
    "base,key",
    [(None, "error.adapter_base"), ("/no/such/folder", "error.adapter_base"), ("{", "error.adapter_config")],
)
def test_what_an_adapter_lacks_is_said(adapter, base, key):
    file = adapter[0] / "adapter_config.json"
    file.write_text(
        "{" if base == "{" else json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base})
    )
    with pytest.raises(PlaygroundError) as error:
        fetched(adapter[0])
    assert keys(error) == [key]


def _named_base(adapter, base):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(base)}))


@pytest.mark.parametrize(("family", "changes"), [("gpt2", {}), ("llama", {"intermediate_size": 32})])
def test_a_base_that_the_adapter_does_not_fit_is_refused_with_both_names_before_it_is_loaded(
    adapter, toy, chosen, tmp_path, monkeypatch, family, changes
):
    other = toy(family, **changes)
    _named_base(adapter[0], other)
    monkeypatch.setattr("playground.model.adapter_folder.merge", None)
    monkeypatch.setattr("playground.engine.load.fetch_model", None)
    for ask in (
        lambda: fetched(adapter[0]),
        lambda: forecast(chosen(load={"model": str(adapter[0])}), device="cpu"),
        lambda: list(Workbench(tmp_path / "runs").load(chosen(load={"model": str(adapter[0])}))),
    ):
        with pytest.raises(PlaygroundError) as error:
            ask()
        assert keys(error) == ["error.adapter_base_other"]
        assert f"The adapter in adapter doesn't fit the base model that it names, {other.name}" in str(error.value)


def test_a_base_that_lacks_tensors_is_not_merged(toy, adapter, tmp_path):
    base = shutil.copytree(toy(), tmp_path / "part")
    tensors = load_file(base / "model.safetensors")
    whole = {name: tensor for name, tensor in tensors.items() if "layers.1.mlp" not in name}
    save_file(whole, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PlaygroundError) as error:
        merge(adapter[0], base, tmp_path / "merged", lambda *_: None)
    assert keys(error) == ["error.tensors_missing"] and not (tmp_path / "merged").exists()
    assert error.value.problems[0].values["path"] == "part" and error.value.problems[0].values["count"] == 3


def test_what_is_left_out_of_a_merged_adapter_is_noted_at_each_load(toy, tmp_path):
    base = shutil.copytree(toy(), tmp_path / "more")
    tensors = load_file(base / "model.safetensors") | {"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    model = AutoModelForCausalLM.from_pretrained(toy(), dtype=torch.float32)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": ["q_proj"]}))
    merge(tmp_path / "adapter", base, tmp_path / "merged", lambda *_: None)
    notes = {note["key"]: note["values"] for note in load(tmp_path / "merged", 32).notes}
    assert notes["note.unused_tensors"]["names"] == ["model.layers.0.self_attn.q_proj.bias"]
    assert notes["note.adapter_unused"]["unused"] == 2 and notes["note.adapter_unused"]["count"] == 4
    assert notes["note.adapter_unused"]["names"][0] == "model.layers.0.self_attn.v_proj"


def test_an_adapter_that_can_only_be_merged_is_still_merged(toy, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(toy(), dtype=torch.float32)
    get_peft_model(model, IA3Config(task_type="CAUSAL_LM")).save_pretrained(tmp_path / "ia3")
    assert (fetched(tmp_path / "ia3") / "config.json").is_file()


def test_an_adapter_for_a_model_of_the_catalog_finds_it_by_its_hub_id(adapter):
    from playground.model.adapter_folder import base_model

    file = adapter[0] / "adapter_config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct"}))
    assert base_model(adapter[0]) == "smollm2-135m-instruct"
    file.write_text(json.dumps(values | {"base_model_name_or_path": "somebody/something"}))
    assert base_model(adapter[0]) == "somebody/something"


def test_a_full_disk_leaves_nothing_of_a_merged_adapter(toy, adapter, tmp_path, monkeypatch):
    def full(*arguments):
        (arguments[1] / "half").write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("playground.model.merged_weights.save_merged", full)
    folder = tmp_path / "cache" / "models" / "merged"
    with pytest.raises(OSError) as caught:
        merge(adapter[0], toy(), folder, lambda *_: None)
    assert caught.value.filename == str(folder) and list(folder.parent.iterdir()) == []


def test_a_config_that_peft_breaks_on_is_an_error_of_the_adapter(toy, adapter, tmp_path):
    file = adapter[0] / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"monteclora_config": "x", "target_modules": "(("}))
    with pytest.raises(PlaygroundError) as caught:
        merge(adapter[0], toy(), tmp_path / "merged", lambda *_: None)
    assert keys(caught) == ["error.adapter"] and adapter[0].name in caught.value.text("en")
