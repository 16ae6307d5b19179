"""An adapter of another base model of the same shapes is refused where that is certain, and else a note names both."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import keys
from transformers import AutoModelForCausalLM

from playground.errors import PlaygroundError
from playground.model.adapter_check import check_fit
from playground.model.adapter_file import read_adapter
from playground.model.base_identity import are_other_models, is_certainly_other
from playground.predict.meta_model import config_of

LLAMA_2, LLAMA_3 = "meta-llama/Llama-2-7b-hf", "meta-llama/Meta-Llama-3-8B"
LAYER = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "trained_on,base",
    [
        ("decapoda-research/llama-7b-hf", LLAMA_2),  # alpaca-lora's
        ("meta-llama/Llama-2-7b-chat-hf", LLAMA_2),
        ("NousResearch/Llama-2-7b-chat-hf", LLAMA_2),
        ("unsloth/llama-3-8b-Instruct-bnb-4bit", LLAMA_3),
        (LLAMA_3, "meta-llama/Llama-3.1-8B"),
        ("unsloth/mistral-7b-v0.3-bnb-4bit", "mistralai/Mistral-7B-v0.1"),
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-Coder-7B", "Qwen/Qwen2.5-7B"),
        ("unsloth/SmolLM2-135M-bnb-4bit", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("cyberagent/open-calm-7b", "cyberagent/open-calm-3b"),
        ("unsloth/Phi-3-mini-4k-instruct", "microsoft/Phi-3-mini-128k-instruct"),
    ],
)
def test_names_of_other_models_are_told_apart(trained_on, base):
    assert are_other_models(trained_on, base) and are_other_models(base, trained_on)


@pytest.mark.parametrize(
    "trained_on,base",
    [
        ("unsloth/llama-3-8b-bnb-4bit", LLAMA_3),
        ("unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit", "meta-llama/Llama-3.2-1B-Instruct"),
        ("unsloth/mistral-7b-bnb-4bit", "mistralai/Mistral-7B-v0.1"),
        ("NousResearch/Llama-2-7b-hf", LLAMA_2),
        ("meta-llama/Llama-2-7b", LLAMA_2),
        ("TheBloke/Llama-2-7B-GPTQ", LLAMA_2),
        ("hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", "meta-llama/Llama-3.1-8B-Instruct"),
        ("Qwen/Qwen2-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2-7B-Instruct"),
        ("decapoda-research/llama-7b-hf", "huggyllama/llama-7b"),
        ("unsloth/tinyllama-bnb-4bit", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        ("alice/Llama-2-7b-hf-v2", LLAMA_2),
        ("alice/our-base", LLAMA_2),
        ("alice/our-base", "alice/copied"),
        ("/home/alice/models/llama-7b", LLAMA_2),
        (r"C:\models\llama-7b", LLAMA_2),
        ("../llama-7b", LLAMA_2),
        ("./models/llama-7b", LLAMA_2),
        ("models/base/llama-7b", LLAMA_2),
        ("", LLAMA_2),
        ("日本語/モデル", LLAMA_2),
        ("a/" + "x" * 300, LLAMA_2),
    ],
)
def test_copies_and_names_that_tell_nothing_are_not_called_other_models(trained_on, base):
    assert not are_other_models(trained_on, base) and not are_other_models(base, trained_on)


@pytest.fixture
def adapter(tmp_path):
    """`adapter(base_model_name_or_path)`: an adapter for the toy, as PEFT writes it; no base is named for `...`."""
    folder = tmp_path / "adapter"
    folder.mkdir()

    def make(named=...):
        values = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 16, "target_modules": ["q_proj"]}
        values |= {} if named is ... else {"base_model_name_or_path": named}
        (folder / "adapter_config.json").write_text(json.dumps(values))
        weights = {}
        for layer in (0, 1):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
            weights |= {f"{prefix}.lora_A.weight": torch.ones(4, 64), f"{prefix}.lora_B.weight": torch.ones(64, 4)}
        save_file(weights, folder / "adapter_model.safetensors")
        return read_adapter(folder)

    return make


def changed_copy(toy, folder, change):
    """The toy with another first query projection."""
    model = AutoModelForCausalLM.from_pretrained(toy)
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights[f"{LAYER}.weight"] = change(weights[f"{LAYER}.weight"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("named", [..., None, "", 3, "alice/our-base", "/home/alice/base", "unsloth/toy-bnb-4bit"])
def test_without_a_base_that_can_be_compared_the_adapter_answers_with_a_note(adapter, toy, named):
    found = adapter(named)
    notes = check_fit(found, config_of(str(toy())), str(toy()))
    key = "note.adapter_other_base" if isinstance(named, str) and named else "note.adapter_no_base"
    assert [note["key"] for note in notes] == [key]


def test_a_base_of_this_machine_is_compared_by_its_weights(adapter, toy, tmp_path):
    base = toy()
    other = changed_copy(base, tmp_path / "other", lambda weight: weight.flip(0))
    near = changed_copy(base, tmp_path / "near", lambda weight: weight * 1.05)
    half = changed_copy(base, tmp_path / "half", lambda weight: weight.half())
    with pytest.raises(PlaygroundError) as error:
        check_fit(adapter(str(other)), config_of(str(base)), str(base))
    values = error.value.problems[0].values
    assert keys(error) == ["error.adapter_other_model"]
    assert (values["trained_on"], values["model"]) == ("other", base.name)
    forced = check_fit(adapter(str(other)), config_of(str(base)), str(base), force=True)
    assert [note["key"] for note in forced] == ["note.adapter_other_base"]
    for copy in (near, half):
        assert not is_certainly_other(adapter(str(copy)), str(base))


def test_a_shared_page_reads_no_weights_of_this_machine(adapter, toy, tmp_path, monkeypatch):
    other = changed_copy(toy(), tmp_path / "other", lambda weight: weight.flip(0))
    monkeypatch.setattr("playground.model.base_identity.current_limits", lambda: object())
    assert not is_certainly_other(adapter(str(other)), str(toy()))


def test_a_catalog_model_and_a_cached_folder_count_by_their_hub_ids(adapter):
    assert is_certainly_other(adapter("unsloth/SmolLM2-135M-bnb-4bit"), "smollm2-135m-instruct")
    cached = "/cache/models--meta-llama--Llama-2-7b-hf/snapshots/0123abc"
    assert is_certainly_other(adapter("meta-llama/Llama-2-7b-chat-hf"), cached)
    assert not is_certainly_other(adapter("NousResearch/Llama-2-7b-hf"), cached)
