"""Frozen linear layers by hand: the same numbers as PEFT's and bitsandbytes' own way, and less kept for the gradients."""

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional
from toys import make_model

from playground.data.batch import Example, collate
from playground.model.adapt import resolve_target_modules
from playground.train import quantized_ops
from playground.train.linear import patch_linear
from playground.train.loss import Loss
from playground.train.patches import patch_modules
from playground.train.rotary import patch_rotary, rotate

ROWS = [Example(list(range(5, 30)), 4), Example(list(range(40, 52)), 1)]


def tuned(family="llama", **lora):
    model = make_model(family, **{"num_hidden_layers": 3} if family in ("llama", "gpt_neox") else {})
    torch.manual_seed(1)
    model = get_peft_model(
        model,
        LoraConfig(
            **{"r": 4, "target_modules": resolve_target_modules(model, "all-linear"), "task_type": "CAUSAL_LM"} | lora
        ),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def learned(model) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = Loss(model)(collate(ROWS, 2, "cpu"))
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def assert_same(ours, theirs):
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-4)
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(
            ours[1][name], gradient, rtol=1e-4, atol=1e-5 * max(1.0, gradient.abs().max().item()), msg=name
        )


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "gemma3_text", "opt", "bloom", "falcon"])
def test_a_family_learns_the_same_the_lean_way(family):
    model = tuned(family)
    theirs = learned(model)
    with patch_modules(model, model.get_base_model()):
        ours = learned(model)
    assert_same(ours, theirs)
    assert not any(type(m).__name__.startswith("Lean") for m in model.modules())


@pytest.mark.parametrize("lora", [{"use_rslora": True}, {"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True}])
def test_every_kind_of_adapter_learns_the_same(lora):
    model = tuned(**lora)
    torch.manual_seed(7)
    model.train()
    theirs = learned(model)
    torch.manual_seed(7)
    with patch_modules(model, model.get_base_model()):
        taken = any(type(m).__name__.startswith("Lean") for m in model.modules())
        ours = learned(model)
    assert_same(ours, theirs)
    assert taken == ("use_rslora" in lora)


class _One(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def quantized(kind: str) -> tuple[nn.Module, torch.Tensor]:
    """A frozen quantized layer of 96 → 64 with a bias, and its weight as it is multiplied."""
    torch.manual_seed(0)
    weight, bias = torch.randn(64, 96), nn.Parameter(torch.randn(64), requires_grad=False)
    if kind == "int8":
        layer = Linear8bitLt(96, 64, has_fp16_weights=False)
        layer.weight = Int8Params(weight, requires_grad=False, has_fp16_weights=False).to("cpu")
        layer.bias = bias
        return _One(layer), layer.weight.data.float() * layer.weight.SCB[:, None] / 127
    name, twice = kind.split("-")
    layer = Linear4bit(96, 64, compute_dtype=torch.float32, quant_type=name, compress_statistics=twice == "twice")
    layer.weight = Params4bit(weight, requires_grad=False, quant_type=name, compress_statistics=twice == "twice").to(
        "cpu"
    )
    layer.bias = bias
    return _One(layer), dequantize_4bit(layer.weight.data, layer.weight.quant_state)


@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize("kind", ["int8", "nf4-once", "nf4-twice", "fp4-twice"])
def test_a_quantized_layer_multiplies_its_weight_and_keeps_no_more_than_its_input(kind, adapted):
    model, weight = quantized(kind)
    x, upstream = torch.randn(2, 5, 96, requires_grad=True), torch.randn(2, 5, 64)
    wanted = weight
    if adapted:
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["layer"]))
        a, b = (p for n, p in model.named_parameters() if p.requires_grad)
        nn.init.normal_(b)
        wanted = weight + 2 * b @ a
    kept = []
    with (
        patch_linear(model),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t),
    ):
        made = model(x)
    made.backward(upstream)
    torch.testing.assert_close(
        made,
        functional.linear(x, wanted, torch.as_tensor(next(p for n, p in model.named_parameters() if "bias" in n))),
        rtol=1e-4,
        atol=1e-4,
    )
    torch.testing.assert_close(x.grad, upstream @ wanted, rtol=1e-4, atol=1e-4)
    assert sorted(kept) == ([10 * 4, 10 * 96] if adapted else [])


def test_what_the_compiler_gets_is_the_same():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(7, 24, requires_grad=True), torch.randn(16, 24), torch.randn(16)
    a, b = torch.randn(4, 24, requires_grad=True), torch.randn(16, 4, requires_grad=True)
    wanted = functional.linear(x, weight, bias) + 0.5 * (x @ a.T) @ b.T
    theirs = torch.autograd.grad(wanted.square().sum(), (x, a, b))
    made = quantized_ops.compiled(x, (weight, "dense", [], 0, 0, 16, 24), bias, a, b, 0.5)
    torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-4)
    for ours, other in zip(torch.autograd.grad(made.square().sum(), (x, a, b)), theirs):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-3)


def test_vectors_are_turned_as_the_model_turns_them_and_gradients_back():
    from transformers.models.llama import modeling_llama

    query, key = torch.randn(2, 4, 6, 16, requires_grad=True), torch.randn(2, 2, 6, 16, requires_grad=True)
    angles = torch.randn(2, 6, 8).repeat(1, 1, 2)
    usual = modeling_llama.apply_rotary_pos_emb
    theirs, ours = usual(query, key, angles.cos(), angles.sin()), rotate(query, key, angles.cos(), angles.sin())
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b)
        for mine, other in zip(
            *(torch.autograd.grad(t.square().sum() * 3 + t.sum(), (query if t.shape[1] == 4 else key)) for t in (a, b))
        ):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    with patch_rotary(make_model("llama")):
        assert modeling_llama.apply_rotary_pos_emb is not usual
    assert modeling_llama.apply_rotary_pos_emb is usual


def test_a_model_that_turns_vectors_otherwise_keeps_its_way(monkeypatch):
    from transformers.models.llama import modeling_llama

    def neighbours(query, key, cos, sin, unsqueeze_dim=1):  # pairs side by side instead of halves, as GPT-J has them
        def turn(x):
            return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)

        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return query * cos + turn(query) * sin, key * cos + turn(key) * sin

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", neighbours)
    with patch_rotary(make_model("llama")):
        assert modeling_llama.apply_rotary_pos_emb is neighbours
