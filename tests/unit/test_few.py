"""A few layers stand for all of them: to the byte what a trace of all says, over families, bits, dials and patterns."""

import pytest
import torch
from toys import FAMILIES
from transformers import AutoConfig

from playground.planning import forecast
from playground.predict import allocation_trace, layer_extrapolation, meta_model, phases, trace_cache
from playground.settings import Load, Lora, Settings, Train

DEEP = 13  # layers: enough for two periods of two and one left out, and for seven with adapters above six without
ROWS = [40, 33, 20, 9]
DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
CASES = [
    ("llama", 16, {"gradient_checkpointing": "off"}, 0),
    ("llama", 8, {"gradient_checkpointing": "all"}, 0),
    ("llama", 4, {"gradient_checkpointing": "2"}, 0),
    ("llama", 32, {"gradient_checkpointing": "2", "method": "full"}, 0),
    ("gpt_neox", 4, {"gradient_checkpointing": "all", "max_tokens_per_micro_batch": 60}, 0),
    ("gpt_neox", 16, {"gradient_checkpointing": "auto"}, 7),
    ("gpt2", 16, {"gradient_checkpointing": "offload"}, 0),
    ("gemma3_text", 4, {"gradient_checkpointing": "off"}, 0),
    ("smollm3", 8, {"gradient_checkpointing": "all"}, 0),
    ("bloom", 4, {"gradient_checkpointing": "off"}, 0),
    ("opt", 16, {"gradient_checkpointing": "all"}, 0),
    ("falcon", 16, {"gradient_checkpointing": "all"}, 0),
    ("t5", 16, {"gradient_checkpointing": "off"}, 0),
    ("bart", 4, {"gradient_checkpointing": "all"}, 0),
]


def deep(family: str):
    """The toy's config with more layers, its patterns going on."""
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
    """How many layers each trace that was told from had."""
    found, told = [], phases._prediction
    monkeypatch.setattr(
        phases,
        "_prediction",
        lambda network, *rest: (
            told(network, *rest),
            found.append(len(layer_extrapolation.repeated_layers(network.loaded.model))),
        )[0],
    )
    return found


@pytest.mark.parametrize(("family", "bits", "train", "last"), CASES)
def test_it_is_what_all_layers_take(family, bits, train, last, depths, monkeypatch):
    config, place = deep(family), phases.Target("cuda", torch.float32 if bits == 32 else torch.bfloat16, 2**31)
    settings = Settings(load=Load(bits=bits), lora=Lora(r=4, layers=last), train=Train(batch_size=4, **train))
    quick = [
        phases.predict_chat.__wrapped__(config, settings, place, 64),
        phases.predict_tune.__wrapped__(config, settings, place, ROWS),
    ]
    whole = DEEP * (1 + config.is_encoder_decoder)
    assert len(depths) == 2 and max(depths) < whole  # none fell back on all of them
    monkeypatch.setattr(trace_cache, "shallow_model", lambda *_: None)
    assert quick == [
        phases.predict_chat.__wrapped__(config, settings, place, 64),
        phases.predict_tune.__wrapped__(config, settings, place, ROWS),
    ]
    assert depths[2:] == [whole] * 2


def test_with_what_is_dropped_at_random(depths, monkeypatch):
    settings = Settings(
        load=Load(bits=16), lora=Lora(r=4, dropout=0.1), train=Train(batch_size=4, gradient_checkpointing="all")
    )
    quick = phases.predict_tune.__wrapped__(deep("llama"), settings, phases.Target("cuda", torch.bfloat16), ROWS)
    monkeypatch.setattr(trace_cache, "shallow_model", lambda *_: None)
    assert quick == phases.predict_tune.__wrapped__(
        deep("llama"), settings, phases.Target("cuda", torch.bfloat16), ROWS
    )
    assert depths == [5, DEEP]


def test_on_a_cpu_too(monkeypatch):
    place, settings = phases.Target("cpu", torch.float32), Settings(load=Load(bits=4), train=Train(batch_size=4))
    quick = phases.predict_tune.__wrapped__(deep("llama"), settings, place, ROWS)
    monkeypatch.setattr(trace_cache, "shallow_model", lambda *_: None)
    assert quick == phases.predict_tune.__wrapped__(deep("llama"), settings, place, ROWS)


def test_layers_that_are_not_alike_are_all_traced(depths, monkeypatch):
    config = deep("llama")
    monkeypatch.setattr(meta_model.layer_extrapolation, "layer_kinds", lambda model: (tuple(range(DEEP)),))
    config.rope_theta = 12345.0  # not remembered from another test
    settings = Settings(load=Load(bits=16), lora=Lora(r=4), train=Train(batch_size=4))
    phases.predict_tune.__wrapped__(config, settings, phases.Target("cuda", torch.bfloat16), ROWS)
    assert depths == [DEEP]


def test_an_adapter_on_a_layer_by_its_number_is_traced_there(depths):
    settings = Settings(
        load=Load(bits=16), lora=Lora(r=4, target_modules="layers.7.self_attn.q_proj"), train=Train(batch_size=4)
    )
    phases.predict_tune.__wrapped__(deep("llama"), settings, phases.Target("cuda", torch.bfloat16), ROWS)
    assert depths == [DEEP]


REGION = layer_extrapolation.Region(2, 1, 3)
FORWARD = [(n, 512, "activations") for n in range(6)]  # one event before the layers, then one a layer


def test_what_was_left_out_is_put_back_in_every_pass():
    events = [
        *FORWARD,
        (5, -512, "activations"),
        (4, -512, "activations"),
        (3, -512, "activations"),
        (2, -512, "activations"),
        (1, -512, "activations"),
    ]
    made = layer_extrapolation.extrapolate(events, [-1, 0, 1, 2, 3, 4, 4, 3, 2, 1, 0], [REGION])
    assert [name for name, _, _ in made] == [*range(9), *range(8, 0, -1)]


@pytest.mark.parametrize("labels", [[-1, 0, 1, 2, 3, 4, 4, 3, -1, 1, 0], [-1, 0, 1, 2, 3, 4, 4, 2, 3, 1, 0]])
def test_a_pass_that_misses_a_layer_or_takes_them_out_of_turn_is_none(labels):
    events = [*FORWARD, *((n, -512, "activations") for n in (5, 4, 3, 2, 1))]
    with pytest.raises(layer_extrapolation.LayersDiffer):
        layer_extrapolation.extrapolate(events, labels, [REGION])


def test_neighbours_that_differ_are_noticed():
    events = [(n, 512 * (1 + (n == 4)), "activations") for n in range(6)]
    with pytest.raises(layer_extrapolation.LayersDiffer):
        layer_extrapolation.extrapolate(events, [-1, 0, 1, 2, 3, 4], [REGION])


def test_what_depends_on_nothing_that_moved_is_not_asked_again(toy, monkeypatch):
    settings = Settings().with_values(
        {"load": {"model": str(toy()), "bits": 16}, "train": {"batch_size": 2, "max_seq_length": 64}}
    )
    first, asked = forecast.forecast(settings, context=64), []
    begin = trace_cache.TracedModel.__init__
    monkeypatch.setattr(
        trace_cache.TracedModel,
        "__init__",
        lambda self, *rest, **more: (asked.append(1), begin(self, *rest, **more))[1],
    )
    assert forecast.forecast(settings, context=64)["phases"] == first["phases"]
    assert not asked
    moved = forecast.forecast(settings.with_values({"train": {"batch_size": 3}}), context=64)["phases"]
    assert (
        len(asked) == 1
        and moved["chat"] == first["phases"]["chat"]
        and moved["tune"]["allocated"] > first["phases"]["tune"]["allocated"]
    )
    forecast.forecast(settings, context=96)
    assert len(asked) == 2


def test_a_network_that_is_kept_says_the_same_again_and_again():
    """One step after the other on it, with gradients that are summed in place (32 bits), under other dials and rows in between."""
    place, moves = phases.Target("cuda", torch.float32), [(ROWS, "off"), (ROWS[:2], "all"), (ROWS, "off")]
    said = [
        phases.predict_tune.__wrapped__(
            deep("llama"),
            Settings(load=Load(bits=32), train=Train(batch_size=4, micro_batch_size=2, gradient_checkpointing=policy)),
            place,
            rows,
        )
        for rows, policy in moves
    ]
    assert said[0] == said[2] != said[1] and len(trace_cache._kept) <= trace_cache.KEPT
    trace_cache._kept.clear()
    assert said[0] == phases.predict_tune.__wrapped__(
        deep("llama"),
        Settings(load=Load(bits=32), train=Train(batch_size=4, micro_batch_size=2, gradient_checkpointing="off")),
        place,
        ROWS,
    )


def test_what_is_remembered_is_bounded(monkeypatch):
    allocation_trace._known_calls.clear()
    monkeypatch.setattr(allocation_trace, "MAX_KNOWN_CALLS", 40)
    monkeypatch.setattr(trace_cache, "REMEMBERED", 2)
    monkeypatch.setattr(meta_model, "REMEMBERED", 2)
    monkeypatch.setattr(meta_model, "_known", {})
    place = phases.Target("cuda", torch.bfloat16)
    for family in ("llama", "gpt_neox", "opt"):
        phases.predict_chat(deep(family), Settings(load=Load(bits=16)), place, 64)
    assert (
        len(allocation_trace._known_calls) <= 40
        and len(meta_model._known) <= 2
        and len(phases.predict_chat.answers) == 2
    )
