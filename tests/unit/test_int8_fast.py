"""Weights as 8-bit integers, multiplied so: gradients, loading, the check before a run, and what each place says."""

from dataclasses import replace

import pytest
import torch
from float8_emulation import float8_products
from test_float8 import recipe_of
from test_product_check import ROWS, SETTINGS, trainer_of

from playground import compat
from playground.engine import load as engine_load
from playground.engine.load import missing_products_note, resolve_bits
from playground.engine.product_check import check_products
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.memory.ledger import bytes_by_part
from playground.model import adapt, cpu_speed, float8, int8_fast, load
from playground.model.float8_linear import FastInt8Linear
from playground.predict import meta_model
from playground.settings import Load, Lora, Settings
from playground.share.recipe import setting_notes
from playground.share.script import script_text
from playground.train import product_check, quantized_ops
from playground.train.linear import frozen_weight

FAST = Load(bits=8, quant_type_8bit="int8-fast", dtype="bfloat16", device="cpu")


@pytest.fixture
def emulated():
    with float8_products():
        yield


def layer_of(width=128, out=48, multiplies=True):
    torch.manual_seed(0)
    layer = torch.nn.Linear(width, out, dtype=torch.bfloat16)
    layer.weight.data *= torch.logspace(-3, 2, out, dtype=torch.bfloat16)[:, None]
    return FastInt8Linear.from_linear(layer, "cpu", multiplies)


def test_a_row_is_rounded_to_127ths_of_its_largest_number():
    weight = torch.randn(48, 80) * torch.logspace(-6, 3, 48)[:, None]
    weight[5] = 0
    codes, scales = int8_fast.quantize_rows(weight)
    back, largest = int8_fast.dequantize_rows(codes, scales, torch.float32), weight.abs().amax(1)
    assert codes.dtype == torch.int8 and (back[5] == 0).all() and scales[5] == 1
    assert ((back - weight).abs() <= largest[:, None] / 127 / 2 * 1.0001).all()


def test_products_and_gradients_are_those_of_the_dequantized_weight(emulated):
    layer = layer_of()
    weight = frozen_weight(layer)
    dense = int8_fast.dequantize_rows(layer.weight, layer.scales, torch.float32)
    torch.testing.assert_close(compat.unquantized_weight(layer), dense)
    assert weight.format == "int8-fast" and dense.abs().amax() > 5
    x, upstream = torch.randn(33, 128).bfloat16(), torch.randn(33, 48).bfloat16()
    exact = x.float() @ dense.T + layer.bias.float()
    for found, expected in (
        (quantized_ops.frozen_linear(weight, x, layer.bias), exact),
        (layer(x), exact),
        (quantized_ops.frozen_linear_backward(weight, upstream), upstream.float() @ dense),
    ):
        # column by column: each row of the weight has its own size, a hundred thousand times another's
        error = (found.float() - expected).norm(dim=0) / expected.norm(dim=0)
        assert 0.001 < error.mean() < 0.02 and error.max() < 0.04
    plain = frozen_weight(layer_of(multiplies=False))
    with float8.exact_products():
        exact = quantized_ops.frozen_linear(weight, x, None)
    assert torch.equal(exact, quantized_ops.frozen_linear(plain, x, None)) and plain.format == "int8-fast-stored"


def test_a_model_takes_the_bytes_of_int8_and_is_predicted_so(toy, emulated):
    folder = toy("llama")
    loaded = load.load_model(folder, FAST, lambda *step: None)
    int8 = load.load_model(folder, replace(FAST, quant_type_8bit="int8"), lambda *step: None)
    assert bytes_by_part(loaded.model) == bytes_by_part(int8.model)
    predicted = meta_model.build(meta_model.config_of(str(folder)), FAST, torch.bfloat16, "cuda")
    sizes = {name: (p.shape, p.dtype) for name, p in predicted.named_parameters()}
    assert sizes == {name: (p.shape, p.dtype) for name, p in loaded.model.named_parameters()}
    assert sum(isinstance(module, FastInt8Linear) for module in predicted.modules()) == 14


def test_a_run_is_checked_and_outliers_are_refused(toy, emulated):
    settings = replace(SETTINGS, load=FAST)
    trainer = trainer_of(toy("llama"), settings=settings)
    check = product_check.compare_products(trainer, ROWS)
    assert 0.98 < check.cosine < 0.99999 and check.loss != check.exact_loss
    note, speed = check_products(trainer, ROWS)
    assert speed["key"].startswith("note.product_speed") and note["key"] == "note.fast_int8_checked"
    with pytest.raises(PlaygroundError) as raised:
        list(check_products(trainer_of(toy("llama"), spread=1e6, settings=settings), ROWS))
    [problem] = raised.value.problems
    assert problem.key == "error.fast_int8_check" and str(problem.values["cosine"]) in problem.text("ja")


@pytest.mark.parametrize(
    "device,note,error",
    [
        ("cpu", "note.slow_int8_cpu", "error.race_slow_int8_cpu"),
        ("cuda", "note.no_fast_int8", "error.race_no_fast_int8"),
    ],
)
def test_without_integer_products_it_is_int8_and_a_note_says_so(tmp_path, monkeypatch, device, note, error):
    monkeypatch.setattr(cpu_speed, "int8_speedup", lambda: 0.83)
    monkeypatch.setattr(int8_fast, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(engine_load, "resolve_device", lambda load: device)
    int8_fast.has_products.cache_clear()
    settings = Settings(load=FAST)
    assert resolve_bits(settings).load.quant_type_8bit == "int8"
    [said] = missing_products_note(settings)
    assert said["key"] == note and said["values"] == ({"speedup": 0.83} if device == "cpu" else {})
    with pytest.raises(PlaygroundError) as raised:
        list(Workbench(tmp_path).tune(settings, exact=True))
    assert raised.value.problems[0].key == error and ("0.83" in raised.value.text("en")) == (device == "cpu")
    int8_fast.has_products.cache_clear()


def test_a_cpu_that_multiplies_integers_faster_does_so_in_a_whole_fine_tune(toy, tmp_path, monkeypatch, chosen):
    monkeypatch.setattr(cpu_speed, "int8_speedup", lambda: 1.2)
    int8_fast.has_products.cache_clear()
    settings = chosen(load={"bits": 8, "quant_type_8bit": "int8-fast", "dtype": "bfloat16", "device": "cpu"})
    events = list(Workbench(tmp_path).tune(settings))
    notes = [event["key"] for event in events if event["kind"] == "note"]
    assert "note.fast_int8_checked" in notes and not {"note.slow_int8_cpu", "note.no_fast_int8"} & set(notes)
    losses = [event["loss"] for event in events if event["kind"] == "step"]
    assert losses[-1] < losses[0]
    int8_fast.has_products.cache_clear()


def test_dora_is_refused_and_a_script_loads_16_bits():
    with pytest.raises(PlaygroundError) as raised:
        adapt.check_lora(Lora(use_dora=True), FAST, "cuda")
    assert raised.value.problems[0].key == "error.dora_fast_int8"
    recipe = recipe_of(Settings(load=FAST))
    [note] = setting_notes(recipe.settings, recipe.facts)
    assert note.key == "repeat.note.fast_int8" and "BitsAndBytes" not in script_text(recipe, rows_file=False)
