"""What the predictor remembers (predictions, shallow networks, output shapes) is bounded and changes no result."""

from dataclasses import replace

import pytest
import torch
from test_layer_extrapolation import ROWS, deep

from playground.planning import forecast
from playground.predict import allocation_trace, meta_model, phases, trace_cache
from playground.predict.call_cache import CallCache
from playground.predict.lru import LruCache
from playground.settings import Load, Settings, Train


@pytest.fixture
def built(monkeypatch):
    """One entry for each network that is built while predicting."""
    built, build = [], trace_cache.TracedModel.__init__

    def record(self, *args, **kwargs):
        built.append(1)
        build(self, *args, **kwargs)

    monkeypatch.setattr(trace_cache.TracedModel, "__init__", record)
    return built


def test_only_phases_whose_inputs_changed_are_traced_again(toy, built):
    settings = Settings().with_values(
        {"load": {"model": str(toy()), "bits": 16}, "train": {"batch_size": 2, "max_seq_length": 64}}
    )
    first = forecast.forecast(settings, context=64)["phases"]
    built.clear()
    assert forecast.forecast(settings, context=64)["phases"] == first
    assert not built
    larger_batch = forecast.forecast(settings.with_values({"train": {"batch_size": 3}}), context=64)["phases"]
    assert len(built) == 1
    assert larger_batch["chat"] == first["chat"] and larger_batch["tune"]["allocated"] > first["tune"]["allocated"]
    forecast.forecast(settings, context=96)
    assert len(built) == 2


OTHER_STEPS = {
    "epochs": 9.0,
    "max_steps": 7,
    "lr": 0.5,
    "schedule": "cosine",
    "warmup": 0.5,
    "save_every": 1,
    "eval_rows": 0,
    "eval_every": 2,
    "patience": 3,
    "measure_forgetting": False,
    "sample_every": "1",
}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_fields_that_change_no_prediction_are_no_reason_to_trace_again(method):
    def predict(train: Train, asked=phases.predict_tune) -> dict:
        target = phases.Target("cuda", torch.bfloat16, 2**31)
        return asked(deep("llama"), Settings(load=Load(bits=16), train=train), target, ROWS)

    assert set(OTHER_STEPS) == set(trace_cache.OF_STEPS)
    plain = Train(batch_size=4, method=method)
    first, kept = predict(plain), len(phases.predict_tune.cache)
    for name, value in OTHER_STEPS.items():
        changed = replace(plain, **{name: value})
        assert changed != plain and predict(changed) == first and len(phases.predict_tune.cache) == kept
    other = replace(plain, **OTHER_STEPS)
    assert predict(other, phases.predict_tune.__wrapped__) == predict(plain, phases.predict_tune.__wrapped__) == first
    assert predict(replace(plain, batch_size=2)) != first


@pytest.mark.slow
def test_a_remembered_network_predicts_the_same_again():
    """Steps one after the other, with gradients summed in place (32 bits), and other policies and rows in between."""

    def predict(rows: list[int], policy: str) -> dict:
        train = Train(batch_size=4, micro_batch_size=2, gradient_checkpointing=policy)
        target, settings = phases.Target("cuda", torch.float32), Settings(load=Load(bits=32), train=train)
        return phases.predict_tune.__wrapped__(deep("llama"), settings, target, rows)

    networks = trace_cache.shallow_traces.networks
    first, other, again = predict(ROWS, "off"), predict(ROWS[:2], "all"), predict(ROWS, "off")
    assert first == again != other and 0 < len(networks) <= trace_cache.MAX_SHALLOW_NETWORKS
    networks.clear()
    assert predict(ROWS, "off") == first


def test_caches_are_bounded(monkeypatch):
    calls = CallCache(40)
    monkeypatch.setattr(allocation_trace, "call_cache", calls)
    monkeypatch.setattr(meta_model, "_known_models", LruCache(2))
    monkeypatch.setattr(phases.predict_chat.cache, "maxsize", 2)
    target = phases.Target("cuda", torch.bfloat16)
    for family in ("llama", "gpt_neox", "opt"):
        phases.predict_chat(deep(family), Settings(load=Load(bits=16)), target, 64)
    assert len(calls) == 40 and len(meta_model._known_models) == 2 and len(phases.predict_chat.cache) == 2


def test_the_entry_not_used_for_the_longest_time_is_dropped():
    cache: LruCache[str] = LruCache(2)
    cache.put("a", "first")
    cache.put("b", "second")
    assert cache.get("a") == "first"
    cache.put("c", "third")
    assert [cache.get(key) for key in "abc"] == ["first", None, "third"]
    assert cache.get_or_compute("a", lambda: "computed again") == "first"


def test_nothing_is_stored_where_computing_fails():
    cache: LruCache[str] = LruCache(2)
    with pytest.raises(ZeroDivisionError):
        cache.get_or_compute("a", lambda: str(1 / 0))
    assert len(cache) == 0


def test_a_process_may_remember_fewer_predictions():
    before = [cache.maxsize for cache in trace_cache._caches]
    predict = trace_cache.cached_prediction("load")(lambda config, settings, target: {"parts": {}})
    try:
        trace_cache.keep_predictions(2)
        assert predict.cache.maxsize == 2
    finally:
        assert trace_cache._caches.pop() is predict.cache
        for cache, size in zip(trace_cache._caches, before):
            cache.maxsize = size
