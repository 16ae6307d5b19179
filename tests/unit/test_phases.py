"""Predictions of the phases from a config: weights as real ones, loading, the chat's cache, the program on a CPU."""

from dataclasses import replace

import pytest
import torch
from toys import FAMILIES, toy_config
from transformers import AutoConfig

from playground.memory import constants, ledger
from playground.memory.card_limit import MAX_RUNTIME_BYTES
from playground.memory.ledger import tensors_by_part
from playground.model.load import load_model
from playground.predict import meta_model, phases
from playground.predict.load_order import weights_in_load_order
from playground.settings import Load, Settings

CUDA = phases.Target("cuda", torch.bfloat16)


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_predicted_weights_equal_those_of_the_loaded_model(toy, family, bits):
    folder, load = toy(family), Load(bits=bits, dtype="bfloat16", device="cpu")
    model = load_model(folder, load, lambda *_: None).model
    loaded, rounding = ledger.bytes_by_part(model), 512 * len(list(tensors_by_part(model)))
    target = phases.Target("cpu", torch.float32 if bits == 32 else torch.bfloat16)
    predicted = phases.predict_load(AutoConfig.from_pretrained(folder), Settings(load=load), target)["parts"]
    for part in ("weights", "quant_constants"):
        assert loaded[part] <= predicted.get(part, 0) <= loaded[part] + rounding


@pytest.mark.parametrize("bits", [8, 4])
def test_one_weight_at_a_time_is_unquantized_while_loading(bits):
    prediction = phases.predict_load(toy_config("llama"), Settings(load=Load(bits=bits)), CUDA)
    loaded = sum(size for part, size in prediction["parts"].items() if part in ("weights", "quant_constants"))
    assert loaded < prediction["allocated"] < loaded + 4 * 128 * 128 * 2
    assert prediction["reserved"] >= prediction["allocated"]


def test_the_head_is_loaded_first_and_layers_in_numeric_order():
    loaded = meta_model.build_loaded(toy_config("llama", num_hidden_layers=12), Load(bits=16), torch.bfloat16, "cuda")
    order = [id(tensor) for tensor, _ in weights_in_load_order(loaded.model)]
    layers = loaded.model.model.layers
    assert order[0] == id(loaded.model.lm_head.weight)
    assert order.index(id(layers[2].mlp.up_proj.weight)) < order.index(id(layers[10].mlp.up_proj.weight))


def test_an_encoder_decoder_chat_has_both_caches():
    config = toy_config("t5", num_decoder_layers=24)
    parts = phases.predict_chat(config, Settings(load=Load(bits=16)), CUDA, 64)["parts"]
    assert parts["kv_cache"] >= 2 * 2 * 24 * config.num_heads * config.d_kv * (32 + 31) * 2


def test_on_a_cpu_the_program_is_included():
    target = phases.Target("cpu", torch.float32)
    prediction = phases.predict_load(toy_config("llama"), Settings(load=Load(bits=32)), target)
    assert prediction["rss"] > prediction["allocated"] + 300 * 2**20 and "device_used" not in prediction


def test_a_cpus_plan_leaves_room_for_the_program_and_not_for_cuda():
    settings = Settings(load=Load(bits=16)).with_values({"train": {"batch_size": 4, "max_seq_length": 128}})
    lengths, target = [128] * 4, phases.Target("cpu", torch.bfloat16)
    need = phases.predict_tune(toy_config("llama"), settings, target, lengths)["rss"]
    room = replace(target, capacity=need + need // 2)
    assert constants.PROGRAM_RSS < room.capacity < MAX_RUNTIME_BYTES
    assert phases.predict_tune(toy_config("llama"), settings, room, lengths)["checkpointing"] == "off"
    full = replace(target, capacity=constants.PROGRAM_RSS)
    assert phases.predict_tune(toy_config("llama"), settings, full, lengths)["checkpointing"] != "off"


def test_pages_of_the_files_are_no_memory_beside_the_weights():
    resident = {}
    for bits in (32, 4):
        target = phases.Target("cpu", torch.float32)
        prediction = phases.predict_load(toy_config("llama"), Settings(load=Load(bits=bits)), target)
        loaded = sum(size for part, size in prediction["parts"].items() if part != "buffers")
        resident[bits] = prediction["after"] - loaded - constants.PROGRAM_RSS
        assert prediction["after"] <= prediction["rss"]
    tokenizer = constants.TOKENIZER_BYTES_PER_TOKEN * toy_config("llama").vocab_size
    assert resident[32] == resident[4] == tokenizer


@pytest.mark.parametrize("key", ["cuda", "cpu"])
def test_parts_add_up_to_the_total(key):
    target = phases.Target(key, torch.bfloat16)
    for predict, more in ((phases.predict_load, []), (phases.predict_chat, [64]), (phases.predict_tune, [[40, 20]])):
        prediction = predict(toy_config("llama"), Settings(load=Load(bits=4)), target, *more)
        total = prediction["device_used"] if key == "cuda" else prediction["allocated"]
        assert sum(prediction["parts"].values()) == total
