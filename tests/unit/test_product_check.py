"""The check of float8 products before a run, on a toy model: passed by plain weights, refused for outliers."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from float8_emulation import float8_products

from playground.data.batch import Example
from playground.engine.product_check import check_products
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.export.model_card import model_card
from playground.i18n import translate
from playground.model import float8
from playground.model.load import load_model
from playground.runs import find
from playground.runs.race import lanes
from playground.settings import Load, Lora, Settings, Train
from playground.train import product_check
from playground.train.parallel import Team
from playground.train.prepare import prepare_trainer
from playground.ui.race_view import race_table

ROWS = [Example(list(range(5, 30)), 4), Example(list(range(40, 52)), 1), Example(list(range(60, 90)), 8)]
SETTINGS = Settings(
    load=Load(bits=8, quant_type_8bit="fp8", dtype="bfloat16", device="cpu"),
    lora=Lora(dropout=0.5),
    train=Train(batch_size=2, gradient_checkpointing="off", max_tokens_per_micro_batch=64),
)


def trainer_of(folder, spread=1.0, settings=SETTINGS):
    """A trainer of the toy in float8, or as `settings` load it.

    spread: of one channel inside each MLP, without a change of what it computes.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if spread != 1:
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            for layer in model.model.layers:
                layer.mlp.up_proj.weight[3] *= spread
                layer.mlp.down_proj.weight[:, 3] /= spread
        tokenizer = AutoTokenizer.from_pretrained(folder)
        folder = folder.parent / f"{folder.name}-outliers"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    loaded = load_model(folder, settings.load, lambda *step: None)
    return prepare_trainer(loaded, settings, ROWS, [], Team("cpu"))


@pytest.fixture
def emulated():
    with float8_products():
        yield


def test_plain_weights_pass_with_figures_and_leave_nothing_behind(toy, emulated):
    trainer = trainer_of(toy("llama"))
    before = torch.get_rng_state()
    check = product_check.compare_products(trainer, ROWS)
    assert 0.9 < check.cosine < 0.9999  # float8 was used, and only once
    assert check.loss == pytest.approx(check.exact_loss, rel=0.05) and check.loss != check.exact_loss
    assert check.tokens == 25 + 12 and check.passed  # as many rows as a micro-batch may have tokens
    assert not trainer.optimizer.gradients() and not trainer.optimizer.inner.state
    assert torch.equal(before, torch.get_rng_state())  # no dropout
    note, speed = check_products(trainer, ROWS)
    assert speed["values"]["kind"] == "fp8" and len(speed["values"]["times"]) == 3  # bf16, fp8, int8-fast
    assert note["key"] == "note.float8_checked" and note["values"]["cosine"] == round(check.cosine, 4)


def test_outliers_are_refused_with_the_figures(toy, emulated):
    """One channel of 1,000,000 times the others' size rounds them to nothing, in activations and in gradients."""
    trainer = trainer_of(toy("llama"), spread=1e6)
    with pytest.raises(PlaygroundError) as raised:
        list(check_products(trainer, ROWS))
    [problem] = raised.value.problems
    assert problem.key == "error.float8_check" and problem.values["cosine"] < product_check.MIN_COSINE
    assert "int8" in problem.text("en") and str(problem.values["cosine"]) in problem.text("ja")


def test_exact_gradients_are_those_without_float8(toy, emulated):
    trainer = trainer_of(toy("llama"))
    exact = trainer_of(toy("llama"))
    for module in exact.batcher.model.modules():
        if hasattr(module, "multiplies"):
            module.multiplies = False
    assert product_check.compare_products(exact, ROWS).cosine == pytest.approx(1)
    assert product_check.products_in_8_bits(trainer) and not product_check.products_in_8_bits(exact)
    assert not list(check_products(exact, ROWS))
    assert product_check.compare_products(trainer, ROWS).exact_loss == pytest.approx(
        product_check.compare_products(exact, ROWS).loss
    )


def test_long_rows_are_compared_by_the_shortest(toy, emulated, monkeypatch):
    monkeypatch.setattr(product_check, "SAMPLE_TOKENS", 8)
    assert product_check.compare_products(trainer_of(toy("llama")), ROWS).tokens == 12


def test_layers_that_read_one_tensor_quantize_it_once(toy, emulated, monkeypatch):
    trainer, count = trainer_of(toy("llama")), 0
    quantize = float8.quantize_tokens

    def counted(x, factors):
        nonlocal count
        count += factors is None
        return quantize(x, factors)

    monkeypatch.setattr(float8, "quantize_tokens", counted)
    shared = product_check._loss_and_gradients(trainer, ROWS)
    assert count == 4 * 2  # of each of two layers: for q, k, v; for o; for gate, up; for down
    monkeypatch.setattr(float8, "shared_input", lambda x: contextlib.nullcontext())
    alone = product_check._loss_and_gradients(trainer, ROWS)
    assert count == 4 * 2 + 7 * 2 and shared[0] == alone[0]
    assert all(torch.equal(one, other) for one, other in zip(shared[1], alone[1]))


def test_a_tensor_that_was_changed_or_replaced_is_quantized_again(emulated):
    torch.manual_seed(0)
    codes, scales = float8.quantize_rows(torch.randn(16, 16))

    def multiply(x):
        with float8.shared_input(x):
            return float8.linear(codes, scales, x, None)

    x = torch.randn(3, 16, dtype=torch.bfloat16)
    before = multiply(x)
    assert torch.equal(multiply(x), before)
    x.mul_(-1)
    assert torch.equal(multiply(x), -before)
    assert torch.equal(multiply(-x), before)
    with torch.inference_mode():
        assert torch.equal(multiply(torch.ones(3, 16, dtype=torch.bfloat16)), multiply(torch.ones(3, 16).bfloat16()))


@pytest.mark.parametrize(
    ("figures", "passed"),
    [
        ((0.95, 2.0, 2.05), True),
        ((0.85, 2.0, 2.0), False),
        ((0.95, 2.0, 1.8), False),
        ((float("nan"), 2.0, 2.0), False),
        ((0.95, float("nan"), 2.0), False),
    ],
)
def test_a_check_passes_within_both_limits(figures, passed):
    assert product_check.ProductCheck(*figures, tokens=10).passed is passed


def test_a_fine_tune_in_float8_records_its_check(toy, lesson, chosen, tmp_path, emulated):
    settings = chosen(load={"bits": 8, "quant_type_8bit": "fp8", "dtype": "bfloat16"}, train={"eval_rows": 0})
    events = list(Workbench(tmp_path).tune(settings))
    keys = [event.get("key") for event in events]
    assert "note.float8_checked" in keys and "note.no_float8" not in keys and events[-1]["kind"] == "done"
    page = SimpleNamespace(translate=lambda key, **values: translate("en", key, **values))
    found = lanes(tmp_path, replace(settings, load=replace(settings.load, quant_type_8bit="int8")), ("8", "8-int8"))
    lane = found["8"]
    assert list(found) == ["8"] and lane.kind == "8-fp8" and "<small>fp8</small>" in race_table(page, found)
    card = model_card(find(tmp_path, lane.run), "adapter", "en")
    assert "8 bits (fp8)" in card
