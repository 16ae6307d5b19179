"""Checkpointing policies: the same loss and gradients, and fewer activations kept."""

import pytest
import torch
from test_linear import ROWS, tuned

from playground.data.batch import collate
from playground.settings import CHECKPOINTING_CHOICES
from playground.train import checkpointing, quantized_ops
from playground.train.checkpointing import CheckpointedLayers, CheckpointPolicy, uses_random_numbers
from playground.train.loss import Loss
from playground.train.patches import patch_modules


def step(model, policy: CheckpointPolicy, compiled=False) -> tuple[float, list[torch.Tensor], int]:
    """Loss, gradients, and the bytes that autograd keeps after the forward pass."""
    model.zero_grad()
    layers, loss_module, kept = CheckpointedLayers(model), Loss(model), {}
    loss_module.train()
    torch.manual_seed(3)

    def save(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with patch_modules(loss_module, model.get_base_model()):
        layers.set(policy, compiled)
        with torch.autograd.graph.saved_tensors_hooks(save, lambda t: t):
            loss = loss_module(collate(ROWS, 2, "cpu"))
        loss.backward()
        layers.restore()
    loss_module.eval()
    return loss.item(), [p.grad.clone() for p in model.parameters() if p.requires_grad], sum(kept.values())


def assert_same(actual, expected):
    """Compare loss and gradients of two calls of `step`."""
    assert actual[0] == pytest.approx(expected[0], rel=1e-6)
    for a, b in zip(actual[1], expected[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("how", [*CHECKPOINTING_CHOICES[1:], "3"])
def test_every_policy_gives_the_same_gradients(family, how):
    model = tuned(family)
    assert_same(step(model, CheckpointPolicy(how)), step(model, CheckpointPolicy()))
    assert not any("forward" in vars(layer) for layer in CheckpointedLayers(model).all)


def test_a_recomputed_layer_drops_the_same_numbers():
    model = tuned(lora_dropout=0.5)
    assert uses_random_numbers(model) and not uses_random_numbers(tuned())
    assert_same(step(model, CheckpointPolicy("all")), step(model, CheckpointPolicy()))


@pytest.mark.parametrize("noise,draws", [(0.01, True), (0.0, False), (None, False)])
def test_a_router_that_jitters_draws_random_numbers(noise, draws):
    model = tuned()
    model.config.router_jitter_noise = noise
    assert uses_random_numbers(model) == draws


def test_the_more_layers_are_recomputed_the_fewer_bytes_are_kept():
    kept = [step(tuned(), CheckpointPolicy(how))[2] for how in ("off", "3", "2", "all")]
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == 4 and kept[-1] < kept[0] / 2


def test_the_last_product_of_a_layer_is_not_recomputed(monkeypatch):
    calls, frozen_linear = [], quantized_ops.frozen_linear

    def counted(weight, *rest):
        calls.append(weight.data.shape)
        return frozen_linear(weight, *rest)

    monkeypatch.setattr(quantized_ops, "frozen_linear", counted)
    model = tuned("llama")
    step(model, CheckpointPolicy())
    once = len(calls)
    calls.clear()
    step(model, CheckpointPolicy("all"))
    assert once == 3 * 7 and len(calls) == 2 * once - 3


@pytest.mark.slow
def test_compiled_layers_give_the_same_gradients(monkeypatch):
    compile_ = torch.compile
    monkeypatch.setattr(
        checkpointing.torch, "compile", lambda run, dynamic: compile_(run, dynamic=dynamic, backend="aot_eager")
    )
    checkpointing._compiled.cache_clear()
    model = tuned("llama")
    expected = step(model, CheckpointPolicy())
    for how in ("off", "all"):
        assert_same(step(model, CheckpointPolicy(how), compiled=True), expected)
    checkpointing._compiled.cache_clear()
