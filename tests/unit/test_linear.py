"""Memory-efficient linear layers: the numbers of PEFT and bitsandbytes, with less kept for the gradients."""

import sys

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
from playground.train.linear import efficient_linears, frozen_weight
from playground.train.loss import Loss
from playground.train.patches import patch_modules, swap_classes
from playground.train.rotary import patch_rotary, rotate

ROWS = [Example(list(range(5, 30)), 4), Example(list(range(40, 52)), 1)]


def tuned(family="llama", **lora):
    """A toy model with an adapter that isn't zero. lora: fields of its `LoraConfig`."""
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


def loss_and_gradients(model) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = Loss(model)(collate(ROWS, 2, "cpu"))
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def assert_same(actual, expected):
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-5, atol=1e-4)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(
            actual[1][name], gradient, rtol=1e-4, atol=1e-5 * max(1.0, gradient.abs().max().item()), msg=name
        )


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "gemma3_text", "opt", "bloom", "falcon"])
def test_memory_efficient_modules_give_the_same_gradients(family):
    model = tuned(family)
    expected = loss_and_gradients(model)
    with patch_modules(model, model.get_base_model()):
        actual = loss_and_gradients(model)
    assert_same(actual, expected)
    assert not any(type(m).__name__.startswith("Efficient") for m in model.modules())


@pytest.mark.parametrize("lora", [{"use_rslora": True}, {"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True}])
def test_every_kind_of_adapter_gives_the_same_gradients(lora):
    model = tuned(**lora)
    torch.manual_seed(7)
    model.train()
    expected = loss_and_gradients(model)
    torch.manual_seed(7)
    with patch_modules(model, model.get_base_model()):
        is_patched = any(type(m).__name__.startswith("Efficient") for m in model.modules())
        actual = loss_and_gradients(model)
    assert_same(actual, expected)
    assert is_patched == ("use_rslora" in lora)


class OneLayer(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def quantized(kind: str) -> tuple[nn.Module, torch.Tensor]:
    """A frozen quantized layer of 96 → 64 with a bias, and its dequantized weight."""
    torch.manual_seed(0)
    weight, bias = torch.randn(64, 96), nn.Parameter(torch.randn(64), requires_grad=False)
    if kind == "int8":
        layer = Linear8bitLt(96, 64, has_fp16_weights=False)
        layer.weight = Int8Params(weight, requires_grad=False, has_fp16_weights=False).to("cpu")
        layer.bias = bias
        return OneLayer(layer), layer.weight.data.float() * layer.weight.SCB[:, None] / 127
    name, twice = kind.split("-")
    layer = Linear4bit(96, 64, compute_dtype=torch.float32, quant_type=name, compress_statistics=twice == "twice")
    layer.weight = Params4bit(weight, requires_grad=False, quant_type=name, compress_statistics=twice == "twice").to(
        "cpu"
    )
    layer.bias = bias
    return OneLayer(layer), dequantize_4bit(layer.weight.data, layer.weight.quant_state)


@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize("kind", ["int8", "nf4-once", "nf4-twice", "fp4-twice"])
def test_a_quantized_layer_multiplies_its_weight_and_keeps_only_its_input(kind, adapted):
    model, weight = quantized(kind)
    x, upstream = torch.randn(2, 5, 96, requires_grad=True), torch.randn(2, 5, 64)
    expected = weight
    if adapted:
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["layer"]))
        a, b = (p for n, p in model.named_parameters() if p.requires_grad)
        nn.init.normal_(b)
        expected = weight + 2 * b @ a
    kept = []
    with (
        swap_classes(efficient_linears(model)),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t),
    ):
        output = model(x)
    output.backward(upstream)
    torch.testing.assert_close(
        output,
        functional.linear(x, expected, torch.as_tensor(next(p for n, p in model.named_parameters() if "bias" in n))),
        rtol=1e-4,
        atol=1e-4,
    )
    torch.testing.assert_close(x.grad, upstream @ expected, rtol=1e-4, atol=1e-4)
    assert sorted(kept) == ([10 * 4, 10 * 96] if adapted else [])


@pytest.mark.parametrize("kind", ["dense", "int8", "nf4-once", "nf4-twice"])
def test_the_registered_operators_give_the_same_gradients(kind):
    torch.manual_seed(0)
    layer, weight = (nn.Linear(96, 64), None) if kind == "dense" else quantized(kind)
    frozen = frozen_weight(getattr(layer, "layer", layer).requires_grad_(False))
    weight = frozen.data if weight is None else weight
    x, bias = torch.randn(7, 96, requires_grad=True), torch.randn(64)
    a, b = torch.randn(4, 96, requires_grad=True), torch.randn(64, 4, requires_grad=True)
    for inputs, expected, output in (
        (
            (x, a, b),
            functional.linear(x, weight, bias) + 0.5 * (x @ a.T) @ b.T,
            quantized_ops.lora_linear_compiled(frozen, x, bias, a, b, 0.5),
        ),
        ((x,), functional.linear(x, weight, bias), quantized_ops.frozen_linear_op(*frozen, x, bias)),
    ):
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-4)
        gradients = torch.autograd.grad(expected.square().sum(), inputs)
        for actual, gradient in zip(torch.autograd.grad(output.square().sum(), inputs), gradients, strict=True):
            torch.testing.assert_close(actual, gradient, rtol=1e-4, atol=1e-2)


def test_rotation_and_its_gradient_are_the_models_own():
    from transformers.models.llama import modeling_llama

    query, key = torch.randn(2, 4, 6, 16, requires_grad=True), torch.randn(2, 2, 6, 16, requires_grad=True)
    angles = torch.randn(2, 6, 8).repeat(1, 1, 2)
    original = modeling_llama.apply_rotary_pos_emb
    expected = original(query, key, angles.cos(), angles.sin())
    for a, b in zip(rotate(query, key, angles.cos(), angles.sin()), expected):
        torch.testing.assert_close(a, b)
        for actual, other in zip(
            *(torch.autograd.grad(t.square().sum() * 3 + t.sum(), (query if t.shape[1] == 4 else key)) for t in (a, b))
        ):
            torch.testing.assert_close(actual, other, rtol=1e-5, atol=1e-5)
    with patch_rotary(make_model("llama")):
        assert modeling_llama.apply_rotary_pos_emb is not original
    assert modeling_llama.apply_rotary_pos_emb is original


def test_a_model_with_another_rotation_keeps_it(monkeypatch):
    from transformers.models.llama import modeling_llama

    def neighbours(query, key, cos, sin, unsqueeze_dim=1):  # pairs side by side instead of halves, as GPT-J has them
        def rotate_pairs(x):
            return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)

        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return query * cos + rotate_pairs(query) * sin, key * cos + rotate_pairs(key) * sin

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", neighbours)
    with patch_rotary(make_model("llama")):
        assert modeling_llama.apply_rotary_pos_emb is neighbours


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "olmo", "olmo2"])  # OLMo's angles are float32 in any type
def test_half_precision_trains_as_without_the_replacements(family, dtype):
    model = tuned(family).to(dtype)
    file = sys.modules[type(model.get_base_model()).__module__]
    original = file.apply_rotary_pos_emb
    loss, gradients = loss_and_gradients(model)
    with patch_modules(model, model.get_base_model()):
        assert file.apply_rotary_pos_emb is not original
        replaced_loss, replaced = loss_and_gradients(model)
    assert abs(replaced_loss - loss) < 0.02 * loss
    for name, gradient in gradients.items():
        difference = (replaced[name].float() - gradient.float()).norm()
        assert replaced[name].dtype == gradient.dtype and difference < 0.1 * gradient.float().norm() + 1e-3, name


def test_a_linear_layer_with_a_forward_pass_of_its_own_is_left_alone():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = make_model("llama")
    layer = model.model.layers[0].self_attn.q_proj
    layer.__class__ = Doubled
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    names = {name for name, module in model.named_modules() if module in efficient_linears(model)}
    assert len(names) == 1 and "layers.1" in names.pop()
