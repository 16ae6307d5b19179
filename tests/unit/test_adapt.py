"""Which modules LoRA adapts: groups, names, regular expressions, the output head and the embeddings."""

import re

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from toys import keys, make_model

from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.model import adapt
from playground.model.adapt import resolve_target_modules
from playground.predict.shallow_model import _names_a_layer
from playground.settings import Generation, Lora


@pytest.mark.parametrize(
    "target_modules,expected",
    [
        (r".*layers\.1\..*_proj", {"1.self_attn.q_proj", "1.mlp.down_proj"}),
        (r"model\.layers\.\d+\.self_attn\.(q|v)_proj", {"q_proj", "v_proj"}),
        ("q_proj, lm_head", {"q_proj", "lm_head"}),
        ("embed_tokens,v_proj", {"embed_tokens", "v_proj"}),
    ],
)
def test_expressions_and_names_choose_what_peft_adapts(target_modules, expected):
    model = make_model("llama")
    suffixes = resolve_target_modules(model, target_modules)
    assert expected <= set(suffixes)
    adapted = adapt.add_lora(model, Lora(r=2, target_modules=target_modules), torch.float32, 0)
    names = {
        name.removeprefix("base_model.model.") for name, module in adapted.named_modules() if hasattr(module, "lora_A")
    }
    if adapt.is_expression(target_modules):
        every = [name for name, _ in make_model("llama").named_modules()]
        assert names == {name for name in every if re.fullmatch(target_modules, name)}
    else:
        assert {name.rsplit(".", 1)[-1] for name in names} == set(target_modules.replace(" ", "").split(","))


def test_groups_leave_the_head_and_the_embeddings_alone():
    for group in adapt.GROUPS:
        assert not {"lm_head", "embed_tokens"} & set(resolve_target_modules(make_model("llama"), group))


@pytest.mark.parametrize(
    "target_modules,key",
    [("q_proj|(", "error.target_expression"), (r".*no_such_.*", "error.targets"), ("no_such", "error.targets")],
)
def test_what_matches_nothing_is_an_error(target_modules, key):
    with pytest.raises(PlaygroundError) as error:
        resolve_target_modules(make_model("llama"), target_modules)
    assert keys(error) == [key]


def test_an_expression_is_predicted_from_all_layers():
    assert _names_a_layer(r".*layers\.(0|1)\..*") and _names_a_layer("layers.1.mlp") and not _names_a_layer("q_proj")


@pytest.mark.parametrize("bits", [32, 4])
def test_head_and_embeddings_train_and_answer(chosen, tmp_path, toy, bits):
    lora = {"target_modules": "q_proj,lm_head,embed_tokens", "r": 4}
    workbench = Workbench(tmp_path)
    settings = chosen(lora=lora, load={"model": str(toy()), "bits": bits})
    result = list(workbench.tune(settings))[-1]["result"]
    tensors = load_file(tmp_path / result["run"] / "adapter/adapter_model.safetensors")
    changed = [
        name
        for name, tensor in tensors.items()
        if name.endswith(("lora_B.weight", "lora_embedding_B")) and tensor.any()
    ]
    assert {part for name in changed for part in ("q_proj", "lm_head", "embed_tokens") if part in name} == {
        "q_proj",
        "lm_head",
        "embed_tokens",
    }
    turn = [{"instruction": "What is the answer to question 3?", "answer": None}]
    events = list(Workbench(tmp_path).chat(settings, result["run"], {"base": turn, "tuned": turn}, Generation(4)))
    assert events[-1]["kind"] == "done"
    assert isinstance(PeftModel.from_pretrained(make_model("llama"), tmp_path / result["run"] / "adapter"), PeftModel)
