"""Everything that a model keeps in memory: its tensors by kind, and laying them side by side after a load."""

from collections.abc import Iterator

import torch
from torch import nn

HOLES = 0.05  # of what torch holds: below that, laying weights side by side isn't worth its time


def tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """(part, tensor) of parameters, buffers, and what bitsandbytes keeps beside them; a shared one more than once.

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


def compact(model: nn.Module) -> None:
    """Move the model's tensors out of the card's memory and back in one piece; every tensor and view stays what it is.

    Quantizing layer by layer leaves holes between the weights, of the size of what was quantized; they count as taken
    and only tensors that are smaller still can use them. Needs as much main memory as the model, for a moment.
    """
    storages = list({t.untyped_storage().data_ptr(): t.untyped_storage() for _, t in tensors(model) if t.untyped_storage().nbytes()}.values())
    outside = [torch.UntypedStorage(s.nbytes()).copy_(s) for s in storages]
    for storage in storages:
        storage.resize_(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    for storage, copy in zip(storages, outside, strict=True):
        storage.resize_(copy.nbytes())
        storage.copy_(copy)


def _quantization_constants(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """bitsandbytes: a scale a block and the code book at 4 bits (both again where quantized twice), a scale a row at 8."""
    state, found = getattr(tensor, "quant_state", None), [getattr(tensor, "SCB", None)]
    while state is not None:
        found += [state.absmax, state.code, getattr(state, "offset", None)]
        state = getattr(state, "state2", None)
    yield from (t for t in found if isinstance(t, torch.Tensor))
