"""The dial: whatever is computed twice, the lesson is the same, and less is kept."""

import pytest
import torch
from test_linear import ROWS, tuned

from playground.data.batch import collate
from playground.settings import CHECKPOINTING_CHOICES
from playground.train import quantized_ops
from playground.train.checkpointing import CheckpointedLayers, CheckpointPolicy, uses_random_dropout
from playground.train.loss import Loss
from playground.train.patches import patch_modules


def step(model, policy: CheckpointPolicy, compiled=False) -> tuple[float, list[torch.Tensor], int]:
    """Loss, gradients, and the bytes that autograd keeps through the forward pass."""
    model.zero_grad()
    layers, loss_module, kept = CheckpointedLayers(model), Loss(model), {}
    loss_module.train()
    torch.manual_seed(3)

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with patch_modules(loss_module, model.get_base_model()):
        layers.set(policy, compiled)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = loss_module(collate(ROWS, 2, "cpu"))
        loss.backward()
        layers.restore()
    loss_module.eval()
    return loss.item(), [p.grad.clone() for p in model.parameters() if p.requires_grad], sum(kept.values())


def assert_same(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    for a, b in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("how", [*CHECKPOINTING_CHOICES[1:], "3"])
def test_every_position_of_the_dial_teaches_the_same(family, how):
    model = tuned(family)
    loss, gradients, _ = step(model, CheckpointPolicy())
    other, others, _ = step(model, CheckpointPolicy(how))
    assert_same((loss, gradients), (other, others))
    assert not any("forward" in vars(layer) for layer in CheckpointedLayers(model).all)


def test_dropout_draws_the_same_when_a_layer_is_computed_again():
    model = tuned(lora_dropout=0.5)
    assert uses_random_dropout(model) and not uses_random_dropout(tuned())
    loss, gradients, _ = step(model, CheckpointPolicy())
    other, others, _ = step(model, CheckpointPolicy("all"))
    assert_same((loss, gradients), (other, others))


def test_the_further_the_dial_the_less_is_kept():
    kept = [step(tuned(), CheckpointPolicy(how))[2] for how in ("off", "3", "2", "all")]
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == 4 and kept[-1] < kept[0] / 2


def test_the_last_product_of_a_layer_is_not_computed_twice(monkeypatch):
    calls, product = [], quantized_ops.product
    monkeypatch.setattr(
        quantized_ops, "product", lambda x, weight, *rest: calls.append(weight.shape) or product(x, weight, *rest)
    )
    model = tuned("llama")
    step(model, CheckpointPolicy())
    once = len(calls)
    calls.clear()
    step(model, CheckpointPolicy("all"))
    assert once == 3 * 7 and len(calls) == 2 * once - 3


def test_compiled_layers_teach_the_same(monkeypatch):
    from playground.train import checkpointing as room

    compile_ = torch.compile
    monkeypatch.setattr(room.torch, "compile", lambda run, dynamic: compile_(run, dynamic=dynamic, backend="aot_eager"))
    room._compiled.cache_clear()
    model = tuned("llama")
    loss, gradients, _ = step(model, CheckpointPolicy())
    for how in ("off", "all"):
        assert_same((loss, gradients), step(model, CheckpointPolicy(how), compiled=True)[:2])
    room._compiled.cache_clear()
