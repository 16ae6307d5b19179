"""The ledger: what memory is made of, part by part, in exact bytes of the tensors that are really there.

Parts: weights, quant_constants, adapters, gradients, optimizer. What can only be measured (activations, buffers, the
program itself) is the rest up to the measured total.
"""

import torch
from torch import nn

from playground.model.tensors import tensors

PARTS = ("weights", "quant_constants", "adapters", "gradients", "optimizer")


def parts(model: nn.Module | None, optimizer: torch.optim.Optimizer | None = None) -> dict[str, int]:
    """Bytes by part. A storage that several tensors share (tied weights) counts once.

    Gradients and optimizer state are those that are allocated now: none before the first step.
    """
    sizes, seen = dict.fromkeys(PARTS, 0), set()

    def add(part: str, tensor) -> None:
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta:
            return
        storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()  # of weights split over processes, this one's part
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            sizes[part] += storage.nbytes()

    for part, tensor in tensors(model) if model is not None else ():
        add(part, tensor)
        add("gradients", tensor.grad)
    if optimizer is not None:
        for state in optimizer.state.values():
            for value in state.values():
                add("optimizer", value)
        for group in optimizer.param_groups:
            for parameter in group["params"]:  # float32 master copies belong to the optimizer; the rest was seen above
                add("optimizer", parameter)
                add("gradients", parameter.grad)
    return sizes
