"""How a model is loaded: the order in which its weights arrive, and the memory that it needs in passing for each."""

from typing import Any

import torch
from transformers import PreTrainedModel

from playground import compat
from playground.memory.ledger import tensors_by_part


def weights_in_load_order(model: PreTrainedModel) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Each weight with its quantization constants, in the order in which they arrive on the device.

    transformers loads by name, with numbers compared as numbers, and the output head first. A model in float8 arrives
    from main memory: its quantized layers in the order of its modules, then the rest (model/load.py).
    """
    embeddings: Any = model.get_output_embeddings()
    head = embeddings.weight
    names = {id(tensor): name.split(".") for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    weights: list[tuple[torch.Tensor, list[torch.Tensor]]] = []
    for part, tensor in tensors_by_part(model):
        if part == "quant_constants":
            weights[-1][1].append(tensor)
        else:
            weights.append((tensor, []))

    if any(_row_scales(weight) is not None for weight, _ in weights):
        return sorted(weights, key=lambda pair: _row_scales(pair[0]) is None)

    def load_order(pair: tuple[torch.Tensor, list[torch.Tensor]]) -> list[tuple[bool, int, str]]:
        words = names.get(id(pair[0]), ())
        by_name = [(not word.isdigit(), int(word) if word.isdigit() else 0, word) for word in words]
        return [(pair[0] is not head, 0, ""), *by_name]

    return sorted(weights, key=load_order)


def warmup_bytes(model: PreTrainedModel) -> int:
    """Bytes that transformers allocates and frees before it loads (caching_allocator_warmup): as many as weights."""
    weights = [tensor for part, tensor in tensors_by_part(model) if part == "weights"]
    return sum({compat.storage_id(tensor): tensor.untyped_storage().nbytes() for tensor in weights}.values())


def staged_elements(weight: Any) -> int:
    """How many unquantized elements are on the device, to be quantized into this weight; 0 if it isn't quantized."""
    if getattr(weight, "quant_state", None) is not None:
        return weight.quant_state.shape.numel()
    if _row_scales(weight) is not None:
        return weight.numel()
    return 2 * weight.numel() if getattr(weight, "SCB", None) is not None else 0  # LLM.int8() makes a copy in float16


def _row_scales(weight: Any) -> Any:
    """The scales of a weight in float8; None for any other."""
    return getattr(weight, "row_scales", None)
