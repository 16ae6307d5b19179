"""PEFT's private and fragile APIs: the rows of a batch, and how LoRA changes a weight."""

from collections.abc import Callable
from typing import Any

from playground.compat.of_bitsandbytes import unquantized_weight

BASE_ROWS = "__base__"  # the adapter name of rows that no adapter applies to, in a batch with `adapter_names`


def is_plain_lora(layer: Any, adapter: str) -> bool:
    """Whether a LoRA layer computes Wx + b + s·B·A·x for this adapter: no variant (DoRA), no LoRA bias, not merged."""
    return adapter in layer.lora_A and not (
        layer.merged or layer.lora_variant.get(adapter) or layer.lora_bias.get(adapter)
    )


def has_lora(layer: Any, adapter: str) -> bool:
    """Whether a LoRA layer has weights of this adapter."""
    return adapter in layer.lora_A or adapter in layer.lora_embedding_A


def merged_weight(layer: Any, adapter: str) -> Any:
    """The weight of a LoRA layer, unquantized, with an adapter merged into it, as PEFT (0.21) merges it.

    PEFT's own `merge` would quantize the result again, or write it over the base model's weight, which a tied head
    shares.
    """
    import torch

    with torch.no_grad():
        weight, variant = unquantized_weight(layer.get_base_layer()), layer.lora_variant.get(adapter)
        if variant:
            return variant.merge_safe(layer, adapter, weight.clone())
        return weight.float() + layer.get_delta_weight(adapter).float()


def as_in_files(model: Any, tensors: list, renamed: Callable[[str, Any, Any], Any]) -> list:
    """Tensors of a model (with `name` and `make()`) as the family's files name and split them.

    renamed(name, tensor, before): the tensor `before` under another name, or one of several that were made of others,
    as transformers joins a file's experts into one tensor when it loads a model.
    """
    import torch
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, revert_weight_conversion

    conversions = get_model_conversion_mapping(model, add_legacy=False)
    if not conversions:
        return tensors
    if all(isinstance(conversion, WeightRenaming) for conversion in conversions):
        none = torch.empty(0)
        names = (next(iter(revert_weight_conversion(model, {tensor.name: none}))) for tensor in tensors)
        return [renamed(name, None, tensor) for name, tensor in zip(names, tensors)]
    whole = revert_weight_conversion(model, {tensor.name: tensor.make() for tensor in tensors})
    return [renamed(name, tensor, None) for name, tensor in whole.items()]


def is_persistent(module: Any, buffer: str) -> bool:
    """Whether a buffer of a module belongs to the model's files."""
    return buffer not in module._non_persistent_buffers_set
