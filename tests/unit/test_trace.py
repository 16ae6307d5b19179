"""The tape, and what stands on it: shapes known from before, a load, the arithmetic, and choices that fit."""

import pytest
import torch
from toys import FAMILIES
from transformers import AutoConfig

from playground.planning import forecast
from playground.predict import allocation_trace, meta_model, phases
from playground.predict.formulas import explain
from playground.settings import Load, Lora, Settings, Train

CUDA = phases.Target("cuda", torch.bfloat16)


def config(family: str, **changes):
    kind, values = FAMILIES[family]
    return AutoConfig.for_model(kind, **values | changes)


def told(family: str, bits: int, **train) -> dict:
    settings = Settings(load=Load(bits=bits), lora=Lora(r=4), train=Train(batch_size=4, compile="off", **train))
    return phases.predict_tune(config(family), settings, CUDA, [40, 33, 20, 9])


@pytest.mark.parametrize(("family", "bits"), [("llama", 4), ("gpt_neox", 8), ("bloom", 16), ("falcon", 16)])
def test_shapes_known_from_before_make_the_same_tape(family, bits, monkeypatch):
    quick = told(family, bits, gradient_checkpointing="all")
    monkeypatch.setattr(
        allocation_trace,
        "_made",
        lambda function, args, kwargs: allocation_trace.OTHERWISE.get(function, function)(*args, **kwargs),
    )
    slow = told(family, bits, gradient_checkpointing="all")
    assert quick["parts"] == slow["parts"] and quick["reserved"] == slow["reserved"]


def test_what_is_written_into_and_views_take_nothing():
    tape = allocation_trace.AllocationTrace()
    with tape:
        x = torch.empty(1000, 64, device="meta")
        for _ in range(2):
            x.add_(1.0)
            torch.ops.aten._unsafe_view(x, [64, 1000])
            x.t()
    assert [size for _, size, _ in tape.events] == [x.nbytes]


def test_what_is_dropped_is_given_back():
    tape = allocation_trace.AllocationTrace()
    with tape:
        for _ in range(3):
            made = torch.empty(1000, device="meta") * 2
            del made
    assert sum(size for _, size, _ in tape.events) == 0 and allocation_trace.peak(tape.events)[0] == 2 * 4096


@pytest.mark.parametrize("bits", [8, 4])
def test_a_weight_is_whole_before_it_is_quantized(bits):
    found = phases.predict_load(config("llama"), Settings(load=Load(bits=bits)), CUDA)
    loaded = sum(size for part, size in found["parts"].items() if part in ("weights", "quant_constants"))
    assert loaded < found["allocated"] < loaded + 4 * 128 * 128 * 2 and found["reserved"] >= found["allocated"]


def test_the_head_comes_first_and_numbers_as_numbers():
    loaded = meta_model.build_loaded(config("llama", num_hidden_layers=12), Load(bits=16), torch.bfloat16, "cuda")
    order = [id(tensor) for tensor, _ in phases._arriving(loaded.model)]
    layers = loaded.model.model.layers
    assert order[0] == id(loaded.model.lm_head.weight)
    assert order.index(id(layers[2].mlp.up_proj.weight)) < order.index(id(layers[10].mlp.up_proj.weight))


def test_scores_without_shared_heads_are_squares():
    """Falcon's one head of keys for all: no kernel takes it so, and the scores are there."""
    query, key = (torch.empty(1, heads, 256, 16, device="meta", dtype=torch.bfloat16) for heads in (8, 1))
    sizes = []
    for shared in (True, False):
        tape = allocation_trace.AllocationTrace()
        with torch.no_grad(), tape:
            torch.nn.functional.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=shared)
        sizes.append(allocation_trace.peak(tape.events)[0])
    assert sizes[1] > 2 * 8 * 256 * 256 * 4 > sizes[0]


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_the_arithmetic_agrees_with_the_trace(bits, toy):
    settings = Settings().with_values(
        {"load": {"model": str(toy()), "bits": bits}, "train": {"batch_size": 2, "max_seq_length": 64}}
    )
    found = forecast.forecast(settings, context=64)
    lines = {line["part"]: line for line in found["explained"]}
    assert set(lines) == {"weights", "adapters", "optimizer", "kv_cache"}
    assert all(lines[part]["agrees"] for part in ("adapters", "optimizer", "kv_cache"))
    assert lines["weights"]["bytes"] <= lines["weights"]["traced"]  # a toy's many small tensors are rounded up
    assert lines["weights"]["agrees"] or bits < 16


def test_arithmetic_that_is_off_says_so():
    whole = meta_model.model_facts(config("llama"), Load(bits=16), torch.bfloat16, "cuda")
    phases = {
        "load": {"parts": {"weights": 1}},
        "chat": {"parts": {}},
        "tune": {"parts": {"adapters": 10**9}, "trainable": 5},
    }
    assert not any(line["agrees"] for line in explain(config("llama"), whole, Settings(load=Load(bits=16)), phases, 64))


def test_the_fastest_settings_fit_and_come_in_order(toy):
    settings = Settings().with_values(
        {"load": {"model": str(toy())}, "train": {"batch_size": 8, "max_seq_length": 128}}
    )
    found = forecast.fastest_settings(settings, 2 * 2**30)
    assert found and found[0]["speed"] == 1 and all(one["device_used"] <= 2 * 2**30 for one in found)
    assert [one["speed"] for one in found] == sorted((one["speed"] for one in found), reverse=True)
    assert forecast.fastest_settings(settings, 2**29) == []


def test_a_chat_with_an_encoder_holds_both_caches():
    deep = config("t5", num_decoder_layers=24)
    found = phases.predict_chat(deep, Settings(load=Load(bits=16)), CUDA, 64)
    assert found["parts"]["kv_cache"] >= 2 * 2 * 24 * deep.num_heads * deep.d_kv * (32 + 31) * 2


def test_on_a_cpu_the_program_itself_counts():
    place = phases.Target("cpu", torch.float32)
    found = phases.predict_load(config("llama"), Settings(load=Load(bits=32)), place)
    assert found["rss"] > found["allocated"] + 300 * 2**20 and "device_used" not in found
