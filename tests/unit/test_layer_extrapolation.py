"""Extrapolation from a shallow network equals a trace of all layers: over families, bits, checkpointing, patterns."""

import pytest
import torch
from toys import FAMILIES
from transformers import AutoConfig

from playground.predict import phases, shallow_model, trace_cache
from playground.predict.allocation_trace import OUTSIDE, AllocationEvent
from playground.predict.layer_extrapolation import extrapolate
from playground.predict.shallow_model import LayersDiffer, Region, repeated_layers
from playground.settings import Load, Lora, Settings, Train

DEEP = 13  # layers: enough for two periods of two and one left out, and for seven with adapters above six without
ROWS = [40, 33, 20, 9]  # tokens
CUDA = phases.Target("cuda", torch.bfloat16)
DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
CASES = [
    ("llama", 16, {"gradient_checkpointing": "off"}, 0),
    pytest.param("llama", 8, {"gradient_checkpointing": "all"}, 0, marks=pytest.mark.exhaustive),
    ("llama", 4, {"gradient_checkpointing": "2"}, 0),
    ("llama", 32, {"gradient_checkpointing": "2", "method": "full"}, 0),
    ("llama", 16, {"gradient_checkpointing": "all", "method": "full", "offload_optimizer": True}, 0),
    ("gpt_neox", 16, {"max_tokens_per_micro_batch": 60, "method": "full", "offload_optimizer": True}, 0),
    ("gpt_neox", 4, {"gradient_checkpointing": "all", "max_tokens_per_micro_batch": 60}, 0),
    ("gpt_neox", 16, {"gradient_checkpointing": "auto"}, 7),
    ("gpt2", 16, {"gradient_checkpointing": "offload"}, 0),
    ("gemma3_text", 4, {"gradient_checkpointing": "off"}, 0),
    ("smollm3", 8, {"gradient_checkpointing": "all"}, 0),
    pytest.param("bloom", 4, {"gradient_checkpointing": "off"}, 0, marks=pytest.mark.exhaustive),
    pytest.param("opt", 16, {"gradient_checkpointing": "all"}, 0, marks=pytest.mark.exhaustive),
    pytest.param("falcon", 16, {"gradient_checkpointing": "all"}, 0, marks=pytest.mark.exhaustive),
    pytest.param("t5", 16, {"gradient_checkpointing": "off"}, 0, marks=pytest.mark.exhaustive),
    ("bart", 4, {"gradient_checkpointing": "all"}, 0),
]


def deep(family: str):
    """The toy's config with more layers, its patterns continued."""
    kind, values = FAMILIES[family]
    values = values | {name: DEEP for name in DEPTHS if name in values}
    if "num_layers" in values:
        values["num_decoder_layers"] = DEEP
    for name in ("layer_types", "no_rope_layers"):
        if name in values:
            values[name] = (values[name] * DEEP)[:DEEP]
    return AutoConfig.for_model(kind, **values)


@pytest.fixture
def depths(monkeypatch):
    """The number of layers of each trace that a prediction was made from."""
    depths, predict = [], phases._prediction_from_trace

    def record(traced, *rest):
        depths.append(len(repeated_layers(traced.loaded.model)))
        return predict(traced, *rest)

    monkeypatch.setattr(phases, "_prediction_from_trace", record)
    return depths


def predict_tune(config, settings: Settings, target: phases.Target) -> dict:
    """The prediction, not remembered from an earlier call."""
    return phases.predict_tune.__wrapped__(config, settings, target, ROWS)


def predict_chat(config, settings: Settings, target: phases.Target) -> dict:
    return phases.predict_chat.__wrapped__(config, settings, target, 64)


def trace_all_layers(monkeypatch) -> None:
    monkeypatch.setattr(trace_cache, "choose_shallow_model", lambda *_: None)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "bits", "train", "adapted"), CASES)
def test_prediction_equals_that_of_all_layers(family, bits, train, adapted, depths, monkeypatch):
    config, target = deep(family), phases.Target("cuda", torch.float32 if bits == 32 else torch.bfloat16, 2**31)
    settings = Settings(load=Load(bits=bits), lora=Lora(r=4, layers=adapted), train=Train(batch_size=4, **train))
    shallow = [predict_chat(config, settings, target), predict_tune(config, settings, target)]
    layers = DEEP * (1 + config.is_encoder_decoder)
    assert len(depths) == 2 and max(depths) < layers  # neither fell back on all layers
    trace_all_layers(monkeypatch)
    assert shallow == [predict_chat(config, settings, target), predict_tune(config, settings, target)]
    assert depths[2:] == [layers] * 2


@pytest.mark.slow
def test_prediction_with_dropout_equals_that_of_all_layers(depths, monkeypatch):
    settings = Settings(
        load=Load(bits=16), lora=Lora(r=4, dropout=0.1), train=Train(batch_size=4, gradient_checkpointing="all")
    )
    shallow = predict_tune(deep("llama"), settings, CUDA)
    trace_all_layers(monkeypatch)
    assert shallow == predict_tune(deep("llama"), settings, CUDA)
    assert depths == [5, DEEP]


@pytest.mark.slow
def test_prediction_for_a_cpu_equals_that_of_all_layers(depths, monkeypatch):
    target, settings = phases.Target("cpu", torch.float32), Settings(load=Load(bits=4), train=Train(batch_size=4))
    shallow = predict_tune(deep("llama"), settings, target)
    trace_all_layers(monkeypatch)
    assert shallow == predict_tune(deep("llama"), settings, target)
    assert depths[0] < depths[1] == DEEP and len(depths) == 2


@pytest.mark.slow
def test_all_layers_are_traced_where_layers_differ(depths, monkeypatch):
    config = deep("llama")
    monkeypatch.setattr(shallow_model, "layer_kinds", lambda model: (tuple(range(DEEP)),))
    config.rope_theta = 12345.0  # so that no other test's facts are remembered for it
    settings = Settings(load=Load(bits=16), lora=Lora(r=4), train=Train(batch_size=4))
    predict_tune(config, settings, CUDA)
    assert depths == [DEEP]


def test_all_layers_are_traced_where_an_adapter_names_a_layer(depths):
    lora = Lora(r=4, target_modules="layers.7.self_attn.q_proj")
    predict_tune(deep("llama"), Settings(load=Load(bits=16), lora=lora, train=Train(batch_size=4)), CUDA)
    assert depths == [DEEP]


@pytest.mark.slow
def test_falling_back_on_all_layers_is_logged_with_its_traceback(depths, monkeypatch, caplog):
    def differ(*_):
        raise LayersDiffer("two layers of another size")

    monkeypatch.setattr("playground.predict.traced_model.extrapolate", differ)
    settings = Settings(load=Load(bits=16), lora=Lora(r=4), train=Train(batch_size=4))
    with caplog.at_level("INFO", "playground"):
        predict_tune(deep("llama"), settings, CUDA)
    assert depths[-1] == DEEP and "two layers of another size" in caplog.text and "Traceback" in caplog.text


def test_an_unexpected_error_in_a_trace_is_raised(monkeypatch):
    def fail(*_):
        raise RuntimeError("no such operator")

    monkeypatch.setattr("playground.predict.traced_model.extrapolate", fail)
    with pytest.raises(RuntimeError, match="no such operator"):
        predict_tune(deep("llama"), Settings(load=Load(bits=16), train=Train(batch_size=4)), CUDA)


REGION = Region(2, 1, 3)
ALL_LAYERS_BACKWARD = [4, 3, 2, 1, 0]


def forward_events(sizes: dict[int, int] | None = None) -> list[AllocationEvent]:
    """One allocation before the layers, then one in each of five layers."""
    layers = [OUTSIDE, 0, 1, 2, 3, 4]
    return [AllocationEvent(n, (sizes or {}).get(n, 512), "activations", layer=layer) for n, layer in enumerate(layers)]


def backward_events(running: list[int]) -> list[AllocationEvent]:
    """A free of each layer's block, last to first; running: the layers that the frees are assigned to."""
    blocks = [5, 4, 3, 2, 1]
    return [AllocationEvent(block, 512, "activations", True, layer) for block, layer in zip(blocks, running)]


def test_layers_left_out_are_written_in_every_sweep():
    deep_events = extrapolate(forward_events() + backward_events(ALL_LAYERS_BACKWARD), [REGION])
    assert [event.block for event in deep_events] == [*range(9), *range(8, 0, -1)]
    assert [event.is_free for event in deep_events] == [False] * 9 + [True] * 8
    assert [event.layer for event in deep_events] == [OUTSIDE, *range(8), *reversed(range(8))]


@pytest.mark.parametrize("running", [[4, 3, OUTSIDE, 1, 0], [4, 2, 3, 1, 0]])
def test_a_sweep_that_skips_a_layer_or_takes_them_out_of_order_is_refused(running):
    with pytest.raises(LayersDiffer):
        extrapolate(forward_events() + backward_events(running), [REGION])


def test_neighbours_that_allocate_different_sizes_are_refused():
    with pytest.raises(LayersDiffer):
        extrapolate(forward_events({4: 1024}), [REGION])


def test_blocks_that_only_some_periods_free_are_refused():
    only_one = AllocationEvent(4, 512, "activations", True, OUTSIDE)
    with pytest.raises(LayersDiffer):
        extrapolate([*forward_events(), only_one], [REGION])
