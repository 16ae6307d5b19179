"""Count the exact bytes of a model's and its optimizer's tensors, by part.

Exact parts: weights, quant_constants, adapters, gradients, optimizer. Everything else (activations, buffers, the
program itself) can only be measured in total: it is the remainder up to that.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from playground import compat

EXACT_PARTS = ("weights", "quant_constants", "adapters", "gradients", "optimizer")


def bytes_by_part(model: nn.Module | None, optimizer: torch.optim.Optimizer | None = None) -> dict[str, int]:
    """Bytes by exact part; a storage that several tensors share (tied weights) counts once.

    Gradients and optimizer state count as far as they are allocated now: not at all before the first step.
    """
    sizes = dict.fromkeys(EXACT_PARTS, 0)
    seen: set[int] = set()

    def add(part: str, tensor: Any) -> None:
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta:
            return
        storage = compat.local_shard(tensor).untyped_storage()
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
            for parameter in group["params"]:  # float32 master copies; the model's parameters are counted already
                add("optimizer", parameter)
                add("gradients", parameter.grad)
    return sizes


def tensors_by_part(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, buffers and bitsandbytes' constants as (part, tensor); a shared tensor comes more than once.

    Parts: weights, adapters, quant_constants. A weight's constants follow it.
    """
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        yield "adapters" if "lora_" in name or ".modules_to_save." in name else "weights", tensor
        for constant in compat.quantization_constants(tensor):
            yield "quant_constants", constant
    for module in model.modules():
        state = getattr(module, "state", None)  # where bitsandbytes moves an 8-bit layer's tensors once it has run
        for part, name in (("quant_constants", "SCB"), ("weights", "CB")):
            moved = getattr(state, name, None)
            if isinstance(moved, torch.Tensor):
                yield part, moved
