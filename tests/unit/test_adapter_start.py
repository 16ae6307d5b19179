"""Continuing an adapter: its weights are the start, and every setting that contradicts it is named."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from toys import keys
from transformers import AutoModelForCausalLM

from playground.engine.adapter_start import check_start
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.settings import parse
from playground.ui.access import forbidden_start

STILL = {"max_steps": 1, "lr": 1e-12}  # trains nothing that is seen


def result_of(events) -> dict:
    return list(events)[-1]["result"]


@pytest.mark.slow
def test_run_starts_from_another_runs_adapter(chosen, tmp_path):
    workbench = Workbench(tmp_path)
    first = result_of(workbench.tune(chosen(train={"max_steps": 6})))
    settings = chosen(lora={"start_from": first["run"]}, train=STILL)
    events = list(workbench.tune(settings))
    second = events[-1]["result"]
    assert second["loss"]["before"] == pytest.approx(first["loss"]["after"], abs=1e-4)
    assert first["loss"]["before"] != pytest.approx(first["loss"]["after"], abs=1e-2)
    start, end = (load_file(tmp_path / r["run"] / "adapter/adapter_model.safetensors") for r in (first, second))
    assert all(torch.allclose(start[name], end[name], atol=1e-9) for name in start)
    assert any(tensor.abs().max() > 0 for name, tensor in end.items() if "lora_B" in name)
    again = result_of(Workbench(tmp_path).tune(chosen(lora={"start_from": first["run"]}, train={"max_steps": 4})))
    assert again["loss"]["after"] < first["loss"]["after"]


@pytest.mark.slow
def test_foreign_folder_is_continued_and_every_conflict_is_named(chosen, toy, tmp_path):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(toy())
    config = LoraConfig(r=4, lora_alpha=9, target_modules=["q_proj", "v_proj"], use_rslora=True, task_type="CAUSAL_LM")
    get_peft_model(base, config).save_pretrained(str(tmp_path / "ours"))
    fitting = {"r": 4, "alpha": 9, "use_rslora": True, "target_modules": "v_proj, q_proj"}
    start = {"start_from": str(tmp_path / "ours")}
    assert result_of(Workbench(tmp_path).tune(chosen(lora=fitting | start, train=STILL)))["steps"] == 1
    path = tmp_path / "ours/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "someone/else"}))
    with pytest.raises(PlaygroundError) as caught:
        list(Workbench(tmp_path).tune(chosen(lora=start, train=STILL)))
    told = {p.values["field"]: (p.values["value"], p.values["adapter"]) for p in caught.value.problems}
    assert set(keys(caught)) == {"error.start_conflict"}
    assert told["lora.r"] == ("8", "4") and told["lora.use_rslora"] == ("False", "True")
    assert told["load.model"] == (str(toy()), "someone/else") and "lora.use_dora" not in told
    assert set(told) == {"load.model", "lora.r", "lora.alpha", "lora.use_rslora", "lora.target_modules"}


@pytest.mark.slow
def test_a_stopped_run_is_resumed_after_the_adapter_it_started_from_was_deleted(chosen, toy, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(toy())
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights="gaussian")
    get_peft_model(model, config).save_pretrained(str(tmp_path / "first"))
    lora = {"r": 4, "alpha": 8, "target_modules": "q_proj", "start_from": str(tmp_path / "first")}
    settings = chosen(lora=lora, train={"max_steps": 4})
    whole = result_of(Workbench(tmp_path / "whole").tune(settings))
    workbench = Workbench(tmp_path / "stopped")
    for event in workbench.tune(settings):
        if event["kind"] == "step" and event["step"] == 2:
            workbench.stop.set()
    assert event["result"]["stopped"] and event["result"]["checkpoint"]
    shutil.rmtree(tmp_path / "first")
    resumed = result_of(Workbench(tmp_path / "stopped").resume(event["result"]["run"]))
    assert resumed["steps"] == 4 and resumed["loss"] == whole["loss"]
    with pytest.raises(PlaygroundError) as caught:
        list(workbench.tune(settings))
    assert keys(caught) == ["error.start_from"]


def test_adapters_that_change_their_base_or_do_not_fit_it_are_refused(chosen, toy, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(toy())
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa", task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(str(tmp_path / "pissa"))
    model = AutoModelForCausalLM.from_pretrained(toy())
    get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(str(tmp_path / "cut"))
    weights = tmp_path / "cut/adapter_model.safetensors"
    narrow = {name: tensor[:, :3].contiguous() for name, tensor in load_file(weights).items()}
    save_file(narrow, weights, {"format": "pt"})
    lora = {"r": 4, "alpha": 8, "target_modules": "q_proj"}
    loaded = SimpleNamespace(model=AutoModelForCausalLM.from_pretrained(toy()))
    for name, key in (("pissa", "error.adapter_changes_base"), ("cut", "error.adapter_shapes")):
        settings = chosen(lora=lora | {"start_from": str(tmp_path / name)})
        with pytest.raises(PlaygroundError) as caught:
            list(check_start(tmp_path, loaded, settings))
        assert keys(caught) == [key]


def test_layers_of_the_adapter_that_are_not_trained_on_are_noted(chosen, toy, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(toy())
    get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])).save_pretrained(
        str(tmp_path / "both")
    )
    config = tmp_path / "both/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"target_modules": ["q_proj"]}))
    lora = {"r": 4, "alpha": 8, "target_modules": "q_proj", "start_from": str(tmp_path / "both")}
    events = list(Workbench(tmp_path).tune(chosen(lora=lora, train={"max_steps": 1})))
    assert [e["values"]["unused"] for e in events if e.get("key") == "note.adapter_unused"] == [2]


def test_what_is_no_adapter_is_refused(chosen, tmp_path):
    (tmp_path / "text").mkdir()
    for given in ("no-such-run", str(tmp_path / "text"), "x" * 300, "a\0b"):
        with pytest.raises(PlaygroundError) as caught:
            list(Workbench(tmp_path).tune(chosen(lora={"start_from": given})))
        assert keys(caught) == ["error.start_from"], given
    with pytest.raises(PlaygroundError) as caught:
        parse({"lora": {"start_from": "some-run"}, "train": {"method": "full"}, "load": {"bits": 16}})
    assert keys(caught) == ["problem.start_from_full"]


def test_public_page_names_runs_only(tmp_path):
    (tmp_path / "run-1").mkdir()
    (tmp_path / "run-1/events.jsonl").touch()
    assert not forbidden_start(tmp_path, "run-1") and not forbidden_start(tmp_path, "")
    for given in (str(tmp_path / "run-1"), "../run-1", "run-2", "~", "run-1/adapter"):
        assert [problem.key for problem in forbidden_start(tmp_path, given)] == ["problem.not_here"], given
