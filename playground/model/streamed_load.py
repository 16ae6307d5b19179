"""Load a model with streamed layers: mapped into main memory, then read and placed layer by layer.

Each layer goes to the device, where its linear layers are quantized, and is kept there, moved back to page-locked main
memory, or split over the processes that train together. So the device never holds more of the streamed layers than one,
unquantized, and the buffers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from bitsandbytes.nn import Int8Params, Params4bit
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from playground import compat
from playground.errors import PlaygroundError, problem
from playground.model import float8, nf4_fast
from playground.model.float8_linear import layer_class, quantize_linears
from playground.model.mapped_weights import read
from playground.model.shares import Shares
from playground.model.streaming import BUFFERS, StreamedLayers, shared_parameters, streamed_numbers
from playground.settings import Load, has_own_layers, is_fast_nf4

Progress = Callable[[int, int, str], None]


def layer_names(model: nn.Module) -> dict[str, nn.Module]:
    """A model's repeated layers by name, in the order of its modules, which is that in which a decoder computes."""
    return {name: module for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)}


def streaming_problem(config: Any, layers: int, count: int) -> PlaygroundError | None:
    """Why `count` of a model's layers can't be streamed; None if they can.

    layers: how many repeated layers the model has.
    """
    if config.is_encoder_decoder or not layers:
        return problem("error.streamed_family", kind=config.model_type)
    if not BUFFERS < count <= layers:
        return problem("error.streamed_count", count=count, least=BUFFERS + 1, most=layers)
    return None


def splitting_problem(config: Any, layers: int) -> PlaygroundError | None:
    """Why the quantized weights of a model with so many repeated layers can't be split over processes; None: they can.

    They are gathered in the order in which a decoder computes.
    """
    if config.is_encoder_decoder or not layers:
        return problem("error.split_family", kind=config.model_type)
    return None


def check_modules_to_save(streamed: StreamedLayers, names: str) -> None:
    """Raise PlaygroundError where a module that is trained in full, of names between commas, is streamed or split."""
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    inside = {name.rpartition(".")[2] for layer in streamed.layers for name, _ in layer.named_modules() if name}
    for name in sorted(wanted & inside):
        raise problem(
            "error.split_modules" if isinstance(streamed.waiting, Shares) else "error.streamed_modules", name=name
        )


def place_streamed(
    model: PreTrainedModel,
    load: Load,
    quantization: BitsAndBytesConfig | None,
    device: str,
    on_progress: Progress = lambda *step: None,
    shares: Shares | None = None,
) -> StreamedLayers:
    """Read and quantize an unquantized model layer by layer, and place it; `load.streamed_layers` are streamed.

    quantization: how bitsandbytes quantizes; None: it doesn't, or the weights are quantized already. on_progress:
    called with (done, total, "layers"), also after each quantized weight. shares: with them all layers are streamed,
    and wait there. Raises PlaygroundError for a model that can't be streamed.
    """
    layers = layer_names(model)
    count = len(layers) if shares else int(load.streamed_layers)
    error = splitting_problem(model.config, count) if shares else streaming_problem(model.config, len(layers), count)
    if error:
        raise error
    shared = shared_parameters(model)
    streamed = StreamedLayers(list(layers.values()), streamed_numbers(count, len(layers)), device, shares)
    quantize = _quantizer(model, load, quantization, device)
    for number, (name, layer) in enumerate(layers.items()):
        quantize(f"{name}.", partial(on_progress, number, len(layers), "layers"))
        read(layer)
        layer.requires_grad_(False)
        _move(layer, device)
        if number in streamed.numbers:
            streamed.add(layer, shared)
        on_progress(number + 1, len(layers), "layers")
    quantize("", partial(on_progress, len(layers), len(layers), "layers"))
    read(model)
    inside = {id(module) for layer in layers.values() for module in layer.modules()}
    for module in model.modules():
        if id(module) not in inside:
            _move(module, device, recurse=False)
    streamed.start()
    for layer, part in zip(layers.values(), shares.parts if shares else ()):
        layer.register_buffer("own_share", part, persistent=False)  # so that the ledger counts it
    return streamed


def _move(module: nn.Module, device: str, recurse: bool = True) -> None:
    """Move a module to a device; recurse=False: its own tensors alone."""
    if recurse:
        module.to(device)
        for weight in module.parameters():
            if isinstance(weight, Int8Params) and weight.SCB is not None:  # which stay behind
                weight.CB, weight.SCB = weight.data, weight.SCB.to(device)
        return
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
    for name, buffer in module.named_buffers(recurse=False):
        module._buffers[name] = buffer.to(device)


def _quantizer(
    model: PreTrainedModel, load: Load, quantization: BitsAndBytesConfig | None, device: str
) -> Callable[[str, Callable[[], None]], None]:
    """A function that reads linear layers whose names begin with a prefix and quantizes them on the device.

    It reads one weight at a time, and calls another function after each.
    """
    skip = compat.modules_not_to_quantize(model)
    if has_own_layers(load):
        kind = layer_class(load)
        multiplies = kind.products.has_products(device)
        return lambda prefix, on_weight: quantize_linears(
            model, skip, device, multiplies, kind, prefix, lambda done, total: on_weight()
        )
    if quantization is None:
        return lambda prefix, on_weight: None
    unquantized: dict[str, Any] = {
        name: module for name, module in model.named_modules() if type(module) in (nn.Linear, Conv1D)
    }
    compat.replace_linear_layers(model, skip, quantization)
    waiting = [name for name, module in unquantized.items() if model.get_submodule(name) is not module]
    setattr(model, f"is_loaded_in_{load.bits}bit", True)  # the flag by which PEFT recognizes a quantized model
    fast = is_fast_nf4(load) and float8.has_products(device)

    def quantize(prefix: str, on_weight: Callable[[], None]) -> None:
        for name in [name for name in waiting if name.startswith(prefix)]:
            layer: Any = model.get_submodule(name)
            _quantize(layer, unquantized.pop(name), device)
            waiting.remove(name)
            if fast:
                nf4_fast.prepare(layer)
            on_weight()

    return quantize


def _quantize(layer: Any, unquantized: Any, device: str) -> None:
    """Give bitsandbytes' layer the weight of the one that it replaces, quantized on the device, and its bias."""
    read(unquantized)
    weight = unquantized.weight.data.T if isinstance(unquantized, Conv1D) else unquantized.weight.data
    options = {name: value for name, value in layer.weight.__dict__.items() if name != "SCB"}
    kind: Any = Params4bit if isinstance(layer.weight, Params4bit) else Int8Params
    layer.weight = compat.quantize_to(kind(weight, requires_grad=False, **options), device)
    if unquantized.bias is not None:
        layer.bias = nn.Parameter(unquantized.bias.data.to(device), requires_grad=False)
