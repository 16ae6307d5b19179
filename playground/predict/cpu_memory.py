"""Predict main memory outside tensors: the program, its kernels, the tokenizer, pages of the weights' file."""

from typing import Any

from playground.memory import constants
from playground.model import adapt
from playground.predict.meta_model import unquantized_size
from playground.predict.traced_model import Target, TracedModel


def memory_outside_tensors(traced: TracedModel, target: Target, phase: str, bits: int) -> int:
    """Bytes of main memory that no tensor accounts for.

    phase: "load", "loaded" (once loading is over), "chat" or "tune".
    """
    vocabulary: int = traced.loaded.model.config.get_text_config().vocab_size
    kernels = constants.CPU_KERNELS[target.dtype] if phase in ("chat", "tune") else 0
    tokenizer = constants.TOKENIZER_BYTES_PER_TOKEN * vocabulary
    return constants.PROGRAM_RSS + tokenizer + _file_pages(traced, phase, bits) + kernels


def _file_pages(traced: TracedModel, phase: str, bits: int) -> int:
    """Resident bytes of the file that the weights were read from.

    A file of 16 bits a weight is assumed, which is mapped and read (load.page_in_weights). Weights of 16 bits lie in
    its pages themselves. Where they are converted to 32 bits, the pages are released once they are. Where they are
    quantized to fewer, those that stay as they were keep the whole file mapped.
    """
    model = traced.loaded.model
    if bits > 16:
        if phase != "load":
            return 0
        base = [parameter for name, parameter in model.named_parameters() if "lora_" not in name]
        return sum(2 * traced.tensor_multiplicity(parameter) * parameter.numel() for parameter in base)
    if bits == 16:
        return 0
    quantized: list[Any] = [layer for layer in adapt.linear_layers(model).values() if _is_quantized(layer)]
    return sum(2 * traced.tensor_multiplicity(layer.weight) * unquantized_size(layer) for layer in quantized)


def _is_quantized(layer: Any) -> bool:
    return hasattr(layer, "in_features") and layer.weight.dtype.itemsize == 1
