"""Merged weights against the adapted model itself and PEFT's merge_and_unload, over families and kinds of adapters."""

import json

import pytest
import torch
from toys import make_tokenizer

from playground.model import adapt
from playground.model.embedding import embedding_name, resize_embedding
from playground.model.load import load_model
from playground.model.merged_weights import merged_model, save_merged
from playground.settings import Load, Lora

IDS = torch.arange(3, 23)[None]


def logits(model):
    inputs = {"decoder_input_ids": IDS[:, :5]} if model.config.is_encoder_decoder else {"use_cache": False}
    with torch.no_grad():
        return model(input_ids=IDS, **inputs).logits.float()


def load(folder, bits):
    return load_model(folder, Load(model=str(folder), bits=bits, device="cpu"), lambda *_: None)


def adapted(loaded, **lora):
    """The model with an adapter whose every part differs from its start."""
    model = adapt.add_lora(
        loaded.model, Lora(r=4, alpha=8, **{"target_modules": "all-linear", **lora}), loaded.dtype, 0
    )
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("lora_B", "lora_embedding", "magnitude", "modules_to_save")):
            parameter.data += (0.1 * torch.randn(parameter.shape)).to(parameter.dtype)
    return model.eval()


def saved_and_loaded(model, folder, shard_bytes=10**9):
    folder.mkdir()
    steps = []
    save_merged(merged_model(model, torch.float32), folder, lambda *step: steps.append(step), shard_bytes)
    assert steps[-1][0] == steps[-1][1] and steps == sorted(steps)
    make_tokenizer(False).save_pretrained(folder)
    return load(folder, 32).model


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merged_weights_of_float8_are_the_dequantized_ones_with_the_adapter(toy, tmp_path, family):
    float8 = Load(bits=8, quant_type_8bit="fp8", dtype="bfloat16", device="cpu")
    model = adapted(load_model(toy(family), float8, lambda *_: None))
    merged = logits(saved_and_loaded(model, tmp_path / "merged"))
    assert distance(logits(model), merged) < 0.02  # the adapted model computes in bfloat16


def distance(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2", "gpt_neox", "gemma3_text", "mixtral", "t5", "bart"])
@pytest.mark.parametrize("lora", [{}, {"use_dora": True}, {"use_rslora": True}])
def test_merged_weights_compute_what_the_adapted_model_does(toy, tmp_path, family, lora):
    model = adapted(load(toy(family), 32), **lora)
    trained = logits(model)
    merged = logits(saved_and_loaded(model, tmp_path / "merged", 100_000))
    assert distance(merged, trained) < 1e-3
    assert distance(logits(model.merge_and_unload()), merged) < 1e-3
    assert distance(logits(load(toy(family), 32).model), trained) > 0.1


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_quantized_base_is_merged_by_the_weights_that_it_was_trained_on(toy, tmp_path, family, bits):
    model = adapted(load(toy(family), bits))
    trained = logits(model)
    merged = logits(saved_and_loaded(model, tmp_path / "merged"))
    assert distance(merged, trained) < 0.04  # both compute with rounding of their own
    unquantized = logits(adapted(load(toy(family), 32)))
    assert bits != 4 or distance(unquantized, trained) > 1.5 * distance(merged, trained)


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "t5"])
@pytest.mark.parametrize("setting", ["modules_to_save", "target_modules"])
def test_a_trained_embedding_is_untied_from_the_head(toy, tmp_path, family, setting):
    loaded = load(toy(family), 32)
    name = embedding_name(loaded.model).rsplit(".", 1)[-1]
    model = adapted(loaded, **{setting: name})
    trained = logits(model)
    merged = merged_model(model, torch.float32)
    assert merged.untied
    assert distance(logits(saved_and_loaded(model, tmp_path / "merged")), trained) < 1e-3
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config.get("tie_word_embeddings") is False or family == "t5"


def test_a_tied_model_is_written_once(toy, tmp_path):
    model = adapted(load(toy("llama-tied"), 32))
    merged = merged_model(model, torch.float32)
    assert "lm_head.weight" not in [tensor.name for tensor in merged.tensors] and not merged.untied


def test_a_grown_embedding_keeps_its_rows(toy, tmp_path):
    loaded = load(toy("llama"), 4)
    resize_embedding(loaded.model, 350)
    model = adapted(loaded, modules_to_save="embed_tokens")
    trained = logits(model)
    merged = saved_and_loaded(model, tmp_path / "merged")
    assert merged.config.vocab_size == 350 and merged.get_input_embeddings().weight.shape[0] == 350
    assert distance(logits(merged), trained) < 0.04


def test_experts_are_written_as_their_family_names_them(toy, tmp_path):
    saved_and_loaded(adapted(load(toy("mixtral"), 32)), tmp_path / "merged")
    from safetensors import safe_open

    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    with safe_open(toy("mixtral") / "model.safetensors", "pt") as file:
        assert names == set(file.keys())


def test_the_base_model_is_left_as_it_was(toy, tmp_path):
    loaded = load(toy("llama-tied"), 4)
    before = logits(loaded.model)
    model = adapted(loaded, target_modules="embed_tokens")
    saved_and_loaded(model, tmp_path / "merged")
    assert torch.equal(logits(adapt.remove_lora(model)), before)
