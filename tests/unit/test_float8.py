"""Weights in float8: what they stand for, gradients through them, loading, predicting, saving."""

from dataclasses import replace
from unittest import mock

import pytest
import torch
import toys
from test_linear import assert_same, loss_and_gradients, tuned
from torch import nn

from playground.engine.load import missing_products_note, resolve_bits
from playground.errors import PlaygroundError
from playground.memory.ledger import bytes_by_part
from playground.model import adapt, float8, load
from playground.model.float8_linear import Float8Linear, quantize_linears
from playground.model.unquantized import unquantized_share
from playground.planning.forecast import resolve_target
from playground.predict import meta_model
from playground.predict.load_order import weights_in_load_order
from playground.settings import Load, Lora, Settings
from playground.share.recipe import Recipe, RunFacts, setting_notes
from playground.share.script import script_text
from playground.train.patches import patch_modules

FP8 = Load(bits=8, quant_type_8bit="fp8", dtype="bfloat16", device="cpu")


def test_a_row_keeps_its_largest_number_and_the_rest_to_three_bits():
    torch.manual_seed(0)
    weight = torch.randn(48, 80) * torch.logspace(-6, 3, 48)[:, None]
    weight[5] = 0
    codes, scales = float8.quantize_rows(weight)
    back = float8.dequantize_rows(codes, scales, torch.float32)
    largest = weight.abs().amax(1)
    torch.testing.assert_close(back.abs().amax(1), largest)
    assert codes.dtype == torch.uint8 and (back[5] == 0).all() and scales[5] == 1
    # half a step of three bits below a power of two, or of the smallest numbers: 2^-10 times the scale
    allowed = torch.maximum(weight.abs() / 16, largest[:, None] / 448 / 1024)
    assert ((back - weight).abs() <= allowed * 1.0001).all()


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
def test_gradients_are_those_of_the_dequantized_weights(family):
    model, reference = tuned(family), tuned(family)
    adapted = {f"{name}.base_layer" for name, module in model.named_modules() if hasattr(module, "lora_A")}
    for name in adapted:
        layer = Float8Linear.from_linear(model.get_submodule(name), "cpu", multiplies=False)
        model.set_submodule(name, layer)
        original = reference.get_submodule(name)
        dense = float8.dequantize_rows(layer.weight, layer.scales, torch.float32)
        original.weight.data = dense.T.contiguous() if family == "gpt2" else dense
    expected = loss_and_gradients(reference)
    with patch_modules(model, model.get_base_model()):
        assert_same(loss_and_gradients(model), expected)


def test_every_layer_that_bitsandbytes_would_quantize_is_loaded_in_float8_and_counted(toy):
    folder = toy("llama")
    loaded = load.load_model(folder, FP8, lambda *step: None)
    int8 = load.load_model(folder, Load(bits=8, dtype="bfloat16", device="cpu"), lambda *step: None)
    names = {name for name, module in loaded.model.named_modules() if isinstance(module, Float8Linear)}
    assert names == {name for name, module in int8.model.named_modules() if type(module).__name__ == "Linear8bitLt"}
    assert bytes_by_part(loaded.model) == bytes_by_part(int8.model)
    assert unquantized_share(loaded.model) == unquantized_share(int8.model)


def test_predictions_count_the_bytes_of_the_loaded_model(toy):
    folder = toy("llama")
    loaded = load.load_model(folder, FP8, lambda *step: None)
    predicted = meta_model.build(meta_model.config_of(str(folder)), FP8, torch.bfloat16, "cuda")
    layers = [module for module in predicted.modules() if isinstance(module, Float8Linear)]
    assert layers and all(layer.multiplies and layer.weight.is_meta for layer in layers)
    sizes = {name: (p.shape, p.dtype) for name, p in predicted.named_parameters()}
    assert sizes == {name: (p.shape, p.dtype) for name, p in loaded.model.named_parameters()}


def test_weights_that_are_stored_in_int8_stay_in_it(toy, tmp_path):
    int8 = load.load_model(toy("llama"), replace(FP8, quant_type_8bit="int8"), lambda *step: None)
    int8.model.save_pretrained(tmp_path)
    int8.tokenizer.save_pretrained(tmp_path)
    kinds = {type(module).__name__ for module in load.load_model(tmp_path, FP8, lambda *step: None).model.modules()}
    assert "Linear8bitLt" in kinds and "Float8Linear" not in kinds


def test_adapters_on_float8_compute_in_the_models_type_and_come_off_again(toy):
    loaded = load.load_model(toy("llama"), FP8, lambda *step: None)
    ids = torch.arange(5, 25)[None]
    before = loaded.model(input_ids=ids).logits
    adapted = adapt.add_lora(loaded.model, Lora(), loaded.dtype, 0)
    assert {p.dtype for name, p in adapted.named_parameters() if "lora_" in name} == {torch.bfloat16}
    assert torch.equal(adapt.remove_lora(adapted)(input_ids=ids).logits, before)


def test_layers_left_out_stay_as_they_are():
    model = nn.Sequential()
    model.add_module("head", nn.Linear(16, 16))
    model.add_module("block", nn.Sequential(nn.Linear(16, 16), nn.ReLU()))
    quantize_linears(model, ["head"], "cpu", False)
    assert type(model.head) is nn.Linear and isinstance(model.block[0], Float8Linear)


def test_without_float8_products_8_bits_are_int8_and_a_note_says_so():
    settings = Settings(load=FP8)
    assert resolve_bits(settings).load.quant_type_8bit == "int8"
    assert [note["key"] for note in missing_products_note(settings)] == ["note.no_float8"]
    assert not list(missing_products_note(Settings(load=Load(bits=8, device="cpu"))))


def test_a_plan_for_a_cpu_is_of_int8_and_one_for_a_gpu_of_float8():
    kinds = {
        device: resolve_target(Settings(load=FP8), device, 0)[0].load.quant_type_8bit for device in ("cpu", "cuda")
    }
    assert kinds == {"cpu": "int8", "cuda": "fp8"}


def recipe_of(settings, notes=()):
    """What a script is written from, of a run of one step with these settings."""
    facts = RunFacts({1: 2.0}, {1: 9}, 1, 1, True, "bfloat16", "cuda", False, {})
    rows = [{"prompt": "one", "answer": "two"}]
    shape = rows, False, ["q_proj"], [], "AutoModelForCausalLM", 2, None, (8, 16.0)
    return Recipe("r", "a/b", "A", settings, facts, *shape, notes=notes)


def test_the_script_of_a_run_in_float8_loads_16_bits_and_says_so():
    plain = recipe_of(Settings(load=FP8))
    [note] = setting_notes(plain.settings, plain.facts)
    recipe = replace(plain, notes=(note,))
    script = script_text(recipe, rows_file=False)
    compile(script, "script", "exec")
    assert note.key == "repeat.note.float8" and "BitsAndBytes" not in script and "in fp8, which" in script
    int8 = replace(recipe, settings=Settings(load=replace(FP8, quant_type_8bit="int8")))
    assert "load_in_8bit=True" in script_text(int8, rows_file=False)


def test_dora_on_float8_is_refused():
    with pytest.raises(PlaygroundError) as raised:
        adapt.check_lora(Lora(use_dora=True), FP8, "cuda")
    assert raised.value.problems[0].key == "error.dora_float8"


def test_packing_is_tried_with_exact_products():
    x = torch.zeros(1, dtype=torch.bfloat16)
    assert float8.can_multiply(x) and not float8.can_multiply(x.float())
    with float8.exact_products():
        assert not float8.can_multiply(x)
    assert float8.can_multiply(x)


@pytest.mark.parametrize("rows", [3, float8.FEW_ROWS])
def test_a_product_that_the_library_refuses_is_made_of_dequantized_numbers(monkeypatch, rows):
    asked: list = []

    def refuse(*_, bias, **__):
        asked.append(bias)
        raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic`")

    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    x, weight = torch.randn(rows, 32, dtype=torch.bfloat16), torch.randn(16, 32, dtype=torch.bfloat16)
    bias = torch.randn(16, dtype=torch.bfloat16)
    (a, a_scales), (b, b_scales) = float8.quantize_rows(x), float8.quantize_rows(weight)
    product = float8.multiply(a.view(float8.E4M3), b, a_scales, b_scales, bias)
    exact = x.float() @ weight.float().T + bias.float()
    assert (product.float() - exact).norm() < 0.06 * exact.norm()
    assert (asked[0] is None) == (rows < float8.FEW_ROWS)


def test_other_errors_of_a_product_are_raised(monkeypatch):
    monkeypatch.setattr(torch, "_scaled_mm", mock.Mock(side_effect=RuntimeError("out of memory")))
    a, scales = float8.quantize_rows(torch.ones(2, 16))
    with pytest.raises(RuntimeError, match="out of memory"):
        float8.multiply(a, a, scales, scales, None)


def test_the_layers_of_a_float8_model_arrive_in_the_order_of_its_modules_before_the_rest():
    model = meta_model.build_loaded(toys.toy_config("llama"), FP8, torch.bfloat16, "cuda").model
    order = [weight for weight, _ in weights_in_load_order(model)]
    quantized = [module.weight for module in model.modules() if isinstance(module, Float8Linear)]
    assert all(one is other for one, other in zip(order, quantized)) and len(order) > len(quantized) >= 7
