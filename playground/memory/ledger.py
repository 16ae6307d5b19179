"""The ledger: what memory is made of, part by part, in exact bytes of the tensors that are really there.

Parts: weights, quant_constants, adapters, gradients, optimizer. What can only be measured (activations, buffers, the
program itself) is the rest up to the measured total.
"""

import torch
from torch import nn

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

    for name, tensor in _named_tensors(model):
        add("adapters" if "lora_" in name else "weights", tensor)
        for constant in _quantization_constants(tensor):
            add("quant_constants", constant)
        add("gradients", tensor.grad)
    for module in model.modules() if model is not None else ():
        state = getattr(module, "state", None)  # bitsandbytes keeps what int8 needs on the layer, once it has run
        for name in ("SCB", "CB"):
            add("quant_constants" if name == "SCB" else "weights", getattr(state, name, None))
    if optimizer is not None:
        for state in optimizer.state.values():
            for value in state.values():
                add("optimizer", value)
        for group in optimizer.param_groups:
            for parameter in group["params"]:  # float32 master copies belong to the optimizer; the rest was seen above
                add("optimizer", parameter)
                add("gradients", parameter.grad)
    return sizes


def _named_tensors(model: nn.Module | None):
    if model is not None:
        yield from model.named_parameters(remove_duplicate=False)
        yield from model.named_buffers(remove_duplicate=False)


def _quantization_constants(tensor: torch.Tensor):
    """bitsandbytes: a scale a block and the code book at 4 bits (both again where quantized twice), a scale a row at 8."""
    state = getattr(tensor, "quant_state", None)
    while state is not None:
        yield from (state.absmax, state.code, getattr(state, "offset", None))
        state = getattr(state, "state2", None)
    yield getattr(tensor, "SCB", None)
