"""The ledger: exact bytes by part of the tensors that a model and its optimizer hold.

Exact parts: weights, quant_constants, adapters, gradients, optimizer. What can only be measured as a total (activations,
buffers, the program itself) is the remainder up to the measured total.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

EXACT_PARTS = ("weights", "quant_constants", "adapters", "gradients", "optimizer")


def bytes_by_part(model: nn.Module | None, optimizer: torch.optim.Optimizer | None = None) -> dict[str, int]:
    """Bytes by exact part; a storage shared by several tensors (tied weights) counts once.

    Gradients and optimizer state are those allocated now: none before the first step.
    """
    sizes = dict.fromkeys(EXACT_PARTS, 0)
    seen: set[int] = set()

    def add(part: str, tensor: Any) -> None:
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta:
            return
        storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()  # a sharded weight's part on this process
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            sizes[part] += storage.nbytes()

    for part, tensor in tensors_by_part(model) if model is not None else ():
        add(part, tensor)
        add("gradients", tensor.grad)
    if optimizer is not None:
        for state in optimizer.state.values():
            for value in state.values():
                add("optimizer", value)
        for group in optimizer.param_groups:
            for parameter in group["params"]:  # float32 master copies; the model's own parameters were seen above
                add("optimizer", parameter)
                add("gradients", parameter.grad)
    return sizes


def tensors_by_part(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """(part, tensor) of parameters, buffers and bitsandbytes' constants; a shared tensor comes more than once.

    Parts: weights, adapters, quant_constants.
    """
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        yield "adapters" if "lora_" in name else "weights", tensor
        for constant in _quantization_constants(tensor):
            yield "quant_constants", constant
    for module in model.modules():
        state = getattr(module, "state", None)  # bitsandbytes keeps what int8 needs on the layer, once it has run
        for part, name in (("quant_constants", "SCB"), ("weights", "CB")):
            tensor = getattr(state, name, None)
            if isinstance(tensor, torch.Tensor):
                yield part, tensor


def _quantization_constants(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """bitsandbytes' scale per block and code book at 4 bits (both twice with double quantization), scale per row at 8."""
    state, constants = getattr(tensor, "quant_state", None), [getattr(tensor, "SCB", None)]
    while state is not None:
        constants += [state.absmax, state.code, getattr(state, "offset", None)]
        state = getattr(state, "state2", None)
    yield from (t for t in constants if isinstance(t, torch.Tensor))
