"""4-bit weights multiplied in float8: gradients, loading, predicting, and what each place says of them."""

from dataclasses import replace

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from float8_emulation import float8_products
from test_float8 import recipe_of
from test_product_check import ROWS, SETTINGS, trainer_of

from playground.engine.load import missing_products_note, resolve_bits
from playground.engine.product_check import check_products
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.memory.ledger import bytes_by_part
from playground.model import float8, load, nf4_fast
from playground.planning.forecast import resolve_target
from playground.predict import meta_model
from playground.settings import Load, Settings
from playground.share.recipe import setting_notes
from playground.share.script import script_text
from playground.train import product_check, quantized_ops
from playground.train.linear import frozen_weight

FAST = Load(bits=4, quant_type="nf4-fast", dtype="bfloat16", device="cpu")


@pytest.fixture
def emulated():
    with float8_products():
        yield


def layer_of(width=128, out=48, twice=True):
    torch.manual_seed(0)
    weight = torch.randn(out, width, dtype=torch.bfloat16) * torch.logspace(-3, 2, out, dtype=torch.bfloat16)[:, None]
    layer = Linear4bit(width, out, bias=False, compute_dtype=torch.bfloat16, device="meta")
    layer.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=twice).to("cpu")
    nf4_fast.prepare(layer)
    return layer


@pytest.mark.parametrize("twice", [True, False])
def test_products_and_gradients_are_those_of_the_dequantized_weight(emulated, twice):
    weight = frozen_weight(layer_of(twice=twice))
    dense = quantized_ops.dequantize(weight, torch.float32)
    assert weight.format == "nf4-fast" and dense.abs().amax() > 50
    x, upstream = torch.randn(33, 128).bfloat16(), torch.randn(33, 48).bfloat16()
    for found, exact in (
        (quantized_ops.frozen_linear(weight, x, None), x.float() @ dense.T),
        (quantized_ops.frozen_linear_backward(weight, upstream), upstream.float() @ dense),
    ):
        # column by column: each row of the weight has its own size, a hundred thousand times another's
        error = (found.float() - exact).norm(dim=0) / exact.norm(dim=0)
        assert 0.005 < error.min() and error.max() < 0.08
    with float8.exact_products():
        exact = quantized_ops.frozen_linear(weight, x, None)
    torch.testing.assert_close(exact, x @ dense.bfloat16().T)


@pytest.mark.parametrize(("width", "out", "fast"), [(128, 48, True), (96, 48, False), (128, 40, False)])
def test_rows_that_are_no_whole_blocks_stay_plain(width, out, fast):
    layer = layer_of(width, out)
    assert nf4_fast.is_fast(layer) is fast and frozen_weight(layer).format == ("nf4-fast" if fast else "nf4")


def test_a_model_is_loaded_as_nf4_with_a_scale_a_row_and_predicted_so(toy, emulated):
    folder = toy("llama")
    loaded = load.load_model(folder, FAST, lambda *step: None).model
    plain = load.load_model(folder, replace(FAST, quant_type="nf4"), lambda *step: None).model
    layers = [module for module in loaded.modules() if nf4_fast.is_fast(module)]
    rows = sum(layer.out_features for layer in layers)
    parts, plain_parts = bytes_by_part(loaded), bytes_by_part(plain)
    assert layers and parts == plain_parts | {"quant_constants": plain_parts["quant_constants"] + 4 * rows}
    ids = torch.arange(5, 25)[None]
    assert torch.equal(loaded(input_ids=ids).logits, plain(input_ids=ids).logits)  # answers are nf4's own
    predicted = meta_model.build(meta_model.config_of(str(folder)), FAST, torch.bfloat16, "cuda")
    scales = [nf4_fast.row_scales(m.weight.quant_state) for m in predicted.modules() if nf4_fast.is_fast(m)]
    assert sum(one.numel() for one in scales) == rows and all(one.is_meta for one in scales)


def test_a_run_is_checked_against_exact_products_before_it_begins(toy, emulated, monkeypatch):
    settings = replace(SETTINGS, load=FAST)
    trainer = trainer_of(toy("llama"), settings=settings)
    check = product_check.compare_products(trainer, ROWS)
    assert 0.9 < check.cosine < 0.9999 and check.loss != check.exact_loss
    note, speed = check_products(trainer, ROWS)
    assert speed["key"].startswith("note.product_speed") and note["key"] == "note.fast_nf4_checked"
    monkeypatch.setattr(product_check, "MIN_COSINE", 1)
    with pytest.raises(PlaygroundError) as raised:
        list(check_products(trainer, ROWS))
    [problem] = raised.value.problems
    assert problem.key == "error.fast_nf4_check" and str(problem.values["cosine"]) in problem.text("ja")


def test_without_float8_products_it_is_plain_nf4_and_a_note_says_so(tmp_path):
    settings = Settings(load=FAST)
    assert resolve_bits(settings).load.quant_type == "nf4"
    assert [note["key"] for note in missing_products_note(settings)] == ["note.no_fast_nf4"]
    with pytest.raises(PlaygroundError) as raised:
        list(Workbench(tmp_path).tune(settings, exact=True))
    assert raised.value.problems[0].key == "error.race_no_fast_nf4"
    kinds = {device: resolve_target(settings, device, 0)[0].load.quant_type for device in ("cpu", "cuda")}
    assert kinds == {"cpu": "nf4", "cuda": "nf4-fast"}


def test_weights_that_are_stored_in_nf4_are_multiplied_fast_too(toy, tmp_path, emulated):
    plain = load.load_model(toy("llama"), replace(FAST, quant_type="nf4"), lambda *step: None)
    plain.model.save_pretrained(tmp_path)
    plain.tokenizer.save_pretrained(tmp_path)
    assert any(map(nf4_fast.is_fast, load.load_model(tmp_path, FAST, lambda *step: None).model.modules()))


def test_the_script_of_such_a_run_quantizes_to_nf4_and_says_what_differs():
    recipe = recipe_of(Settings(load=FAST))
    [note] = setting_notes(recipe.settings, recipe.facts)
    assert note.key == "repeat.note.fast_nf4" and 'bnb_4bit_quant_type="nf4"' in script_text(recipe, rows_file=False)
