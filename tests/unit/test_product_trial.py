"""The trial of 8-bit products on the user's GPU, here with emulated products and a clock that is set by hand."""

import json

import pytest
import torch
from float8_emulation import float8_products
from test_int8_fast import layer_of

from playground import catalog
from playground.i18n import translate
from playground.train import product_trial
from playground.train.linear import frozen_weight
from playground.train.product_trial import product_milliseconds


@pytest.fixture
def weight(monkeypatch, tmp_path):
    monkeypatch.setenv("PLAYGROUND_CACHE", str(tmp_path))
    monkeypatch.setattr(product_trial, "ROWS", {"cpu": 16})
    with float8_products():
        yield frozen_weight(layer_of())


def test_each_kind_takes_the_time_of_its_products(weight, monkeypatch):
    now, costs = 0.0, {"dense": 0.004, "fp8": 0.002, "int8-fast": 0.003}
    plain = product_trial.quantized_ops.frozen_linear

    def multiply(weight, x, bias):
        nonlocal now
        now += costs[weight.format]
        return plain(weight, x, bias)

    monkeypatch.setattr(product_trial.quantized_ops, "frozen_linear", multiply)
    monkeypatch.setattr(product_trial.time, "perf_counter", lambda: now)
    times = product_milliseconds(weight, "cpu", torch.bfloat16)
    assert times == pytest.approx({"bf16": 4, "fp8": 2, "int8-fast": 3})
    assert now < 4 * product_trial.SECONDS


def test_figures_are_kept_and_read_again_but_not_for_another_size(weight, monkeypatch):
    monkeypatch.setattr(product_trial, "SECONDS", 0)
    first = product_milliseconds(weight, "cpu", torch.bfloat16)
    monkeypatch.setattr(product_trial, "_measure", lambda *arguments: {"bf16": 1.0})
    assert product_milliseconds(weight, "cpu", torch.bfloat16) == first
    assert product_milliseconds(frozen_weight(layer_of(out=64)), "cpu", torch.bfloat16) == {"bf16": 1.0}
    files = sorted((catalog.cache_folder() / "product-speed").iterdir())
    assert len(files) == 2 and json.loads(files[0].read_text())["torch"] == torch.__version__
    files[0].write_text("{")
    files[1].write_text("[]")
    assert product_milliseconds(weight, "cpu", torch.bfloat16) == {"bf16": 1.0}  # damaged: measured again


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_a_run_says_what_was_measured(lang):
    values = {"kind": "fp8", "times": ["bf16 2.00", "fp8 1.00"], "size": "8 × 8", "rows": 16, "speedup": "2.00"}
    text = translate(lang, "note.product_speed", **values)
    assert "fp8 1.00" in text and "2.00" in text
