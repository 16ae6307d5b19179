"""Toy models with streamed layers, and what they compute, for the unit tests and those on a GPU."""

from typing import Any

import torch
from toys import make_model

from playground import compat
from playground.data.batch import Example
from playground.model.adapt import add_lora
from playground.model.load import quantizable_linear_layers, quantization_config
from playground.model.streamed_load import layer_names, place_streamed
from playground.model.streaming import StreamedLayers
from playground.settings import Load, Lora
from playground.train.batching import Batcher
from playground.train.checkpointing import CheckpointedLayers, CheckpointPolicy
from playground.train.loss import Loss
from playground.train.optimizer import Optimizer
from playground.train.patches import patch_modules

LAYERS = 5
ROWS = [Example([5 + (7 * n + row) % 300 for n in range(length)], 4) for row, length in enumerate((40, 70, 17))]
DEPTHS = {"gpt2": "n_layer", "gptj": "n_layer", "bloom": "n_layer"}
KINDS: dict[str, dict[str, Any]] = {
    "16": {"bits": 16},
    "int8": {"bits": 8},
    "fp8": {"bits": 8, "quant_type_8bit": "fp8"},
    "int8-fast": {"bits": 8, "quant_type_8bit": "int8-fast"},
    "nf4": {"bits": 4},
    "fp4": {"bits": 4, "quant_type": "fp4", "double_quant": False},
    "nf4-fast": {"bits": 4, "quant_type": "nf4-fast"},
}


def tuned(family: str, kind: str, count: int, device: str, **changes: Any) -> tuple[Any, StreamedLayers]:
    """A toy model with an adapter that isn't zero; `count` of its layers are streamed.

    With 0 the weights are quantized and placed alike, and then all of them stay on the device.
    """
    model = make_model(family, **{DEPTHS.get(family, "num_hidden_layers"): LAYERS} | changes).to(torch.bfloat16)
    load = Load(streamed_layers=str(count or LAYERS), **KINDS[kind])
    with quantizable_linear_layers(model.config):
        streamed = place_streamed(model, load, quantization_config(load, torch.bfloat16), device)
    compat.disable_cpu_repacking(model.modules())  # as load_model does
    if not count:
        make_resident(model, streamed)
    adapted = add_lora(model.requires_grad_(False), Lora(r=4), torch.bfloat16, 0)
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted, streamed


def make_resident(model: Any, streamed: StreamedLayers) -> None:
    """Copy every streamed layer's weights back to the device, so that the model is resident again."""
    for layer, places, block in zip(layer_names(model).values(), streamed._places, streamed.waiting.blocks):
        layer._forward_hooks.clear()
        layer._forward_pre_hooks.clear()
        own = block.to(streamed.device)
        for tensor, start in places:
            part = own[start:].view(tensor.dtype)
            tensor.data = part.as_strided(tensor.shape, tensor.stride(), part.storage_offset())


def loss_and_gradients(model: Any, device: str, policy: CheckpointPolicy, steps: int = 1) -> list[torch.Tensor]:
    """Losses and gradients of some micro-batches, as the training loop computes them."""
    loss_module, results = Loss(model), []
    optimizer = Optimizer([(n, p) for n, p in model.named_parameters() if p.requires_grad])
    layers, batcher = CheckpointedLayers(model), Batcher(loss_module, ROWS, 2, device)
    loss_module.train()
    with patch_modules(loss_module, model.get_base_model()), batcher.attention():
        layers.set(policy)
        for _ in range(steps):
            loss = loss_module(batcher.batch(ROWS))
            optimizer.backward(loss)
            results += [loss.detach().clone(), *(g.clone() for g in optimizer.gradients())]
        layers.restore()
    loss_module.eval()
    return results


def answer(model: Any, device: str) -> torch.Tensor:
    """The tokens of a greedy answer."""
    ids = torch.arange(5, 25, device=device)[None]
    with torch.no_grad():
        return model.generate(input_ids=ids, max_new_tokens=4, do_sample=False, pad_token_id=2, eos_token_id=None)
