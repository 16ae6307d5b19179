"""The linear layers that a quantizing load would quantize, and their weights in another format for a while."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from playground.background import Stopped
from playground.errors import problem
from playground.lab import gguf_types
from playground.lab.formats import Format
from playground.lab.quantize import bits_per_weight, quantize
from playground.model.unquantized import layers_left_unquantized

STORED_BITS = 16  # of the weights that stay: embeddings, norms, the output head


def quantizable_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """By name, the linear layers between embedding and output head.

    Raises PlaygroundError where there is none, or where weights are stored as a quantization's codes already.
    """
    head = model.get_output_embeddings()
    left_out = layers_left_unquantized(model.config)
    found: dict[str, nn.Module] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head and not name.endswith(left_out or ("\0",))
    }
    if not found:
        raise problem("error.lab_no_linear", family=model.config.model_type)
    if not all(read_weight(layer).is_floating_point() for layer in found.values()):
        raise problem("error.lab_quantized")
    return found


def read_weight(layer: nn.Module) -> Tensor:
    """A layer's weight as (out, in), without a copy."""
    weight: Tensor = layer.weight.data  # type: ignore[assignment]  # a Module's attributes are typed Tensor | Module
    return weight.T if isinstance(layer, Conv1D) else weight


def stored_bits(model: PreTrainedModel, layers: dict[str, nn.Module], format: Format) -> float:
    """Bits of the whole model by formula: these layers' weights in the format, all others at 16 bits."""
    shapes = [(len(weight), weight.shape[1]) for weight in map(read_weight, layers.values())]
    rest = sum(parameter.numel() for parameter in model.parameters()) - sum(map(math.prod, shapes))
    return STORED_BITS * rest + math.fsum(math.prod(shape) * bits_per_weight(format, shape) for shape in shapes)


def stored_as(layers: dict[str, nn.Module], format: Format) -> dict[str, float]:
    """The GGUF types that layers get whose rows are no whole blocks of the format, and their share of the weights."""
    if format.kind != "gguf":
        return {}
    shapes = [(len(weight), weight.shape[1]) for weight in map(read_weight, layers.values())]
    return gguf_types.replacements(format.variant, shapes)


@contextmanager
def original_weights(layers: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Copies of the layers' weights in main memory, by name; at the end the layers have them again."""
    copies = {name: read_weight(layer).to("cpu", copy=True) for name, layer in layers.items()}
    try:
        yield copies
    finally:
        for name, layer in layers.items():
            read_weight(layer).copy_(copies[name])


def set_format(
    layers: dict[str, nn.Module],
    originals: dict[str, Tensor],
    format: Format,
    stop: threading.Event,
    on_progress: Callable[..., None],
) -> tuple[int, float]:
    """Give each layer the values that its original weight has in the format.

    Returns the bytes that the layers would take in it, and the relative error of their weights (root mean square).
    Raises Stopped once `stop` is set.
    """
    stored, error, size = 0, 0.0, 0.0
    for number, (name, layer) in enumerate(layers.items()):
        if stop.is_set():
            raise Stopped
        weight, target = originals[name].float(), read_weight(layer)
        quantized = quantize(weight.to(target.device), format)
        stored += quantized.bytes
        error += float((quantized.values - weight.to(target.device)).square().sum(dtype=torch.float64))
        size += float(weight.square().sum(dtype=torch.float64))
        target.copy_(quantized.values)
        on_progress(number + 1, len(layers), "layers")
    return stored, (error / max(size, 1e-30)) ** 0.5
