"""Predict the memory that an adapter's start values take in passing (model/start_values.py), from shapes alone.

They are made layer by layer, from a weight in float32, so the largest adapted layer decides. What decomposing a matrix
takes is LAPACK's: `gesdd` works on a copy of it, and for its singular vectors on 4 k² numbers more (k: the shorter
side), by the documentation of its argument LWORK. Measured on a CPU (tests/bench/adapter_kinds.py); GPUs are assumed to
take no more.
"""

from typing import Any

from peft.tuners.lora import LoraLayer

from playground import compat
from playground.memory import constants
from playground.model.load import LoadedModel
from playground.settings import Lora

NUMBER = 4  # bytes, float32
BLOCK = 64  # columns that LAPACK works on at once: numbers for each row and column of the matrix
LASTING = ("weights", "quant_constants", "adapters")  # parts that are there before training
FILE_NUMBER = 2  # bytes; a file of 16 bits a weight is assumed


def start_value_bytes(loaded: LoadedModel, settings: Lora) -> int:
    """The most bytes that start values take besides model and adapter; 0 where there is nothing to compute.

    loaded: a model that has the adapter, with weights or without.
    """
    if settings.kind == "lora" and settings.init == "default":
        return 0
    layers = [layer for layer in loaded.model.modules() if isinstance(layer, LoraLayer)]
    return max((_layer_bytes(layer, settings) for layer in layers), default=0)


def _layer_bytes(layer: Any, settings: Lora) -> int:
    inputs, outputs = layer.in_features, layer.out_features
    if settings.kind == "miss":  # the identity, repeated, and a part of that as wide as the layer
        return NUMBER * 2 * settings.r * (inputs + settings.r)
    weight = layer.get_base_layer().weight
    quantized = compat.is_quantized(weight)
    if settings.init == "loftq":
        if not quantized:
            return 0
        # the quantized weight, the one in the file, and their difference
        return (2 * NUMBER + FILE_NUMBER) * inputs * outputs + svd_bytes(inputs, outputs)
    in_float32 = NUMBER * inputs * outputs if quantized or weight.dtype.itemsize != NUMBER else 0
    if settings.init == "pissa":
        return in_float32 + svd_bytes(inputs, outputs)
    converting = 2 * in_float32 if quantized else 0  # the codes as numbers, and their product with the scales
    return max(converting, in_float32 + randomized_svd_bytes(inputs, outputs, settings.r))


def with_start_values(prediction: dict, size: int) -> dict:
    """A fine-tune's prediction (phases.py) that also has room for its start values.

    size: bytes that they take while model and adapter are there, but neither optimizer nor activations.
    """
    kept = {part: size for part, size in prediction["parts"].items() if part in LASTING}
    allocated = sum(kept.values()) + size
    if not size or allocated <= prediction["allocated"]:
        return prediction
    raised = {"parts": kept | {"buffers": size}, "allocated": allocated}
    if "rss" in prediction:
        more = allocated - prediction["allocated"] + constants.CPU_LAPACK
        return prediction | raised | {total: prediction[total] + more for total in ("rss", "need")}
    reserved = max(prediction["reserved"], allocated)
    used = prediction["device_used"] + reserved - prediction["reserved"]
    raised["parts"] |= {"runtime": used - allocated}
    return prediction | raised | {"reserved": reserved, "device_used": used, "need": used}


def svd_bytes(inputs: int, outputs: int) -> int:
    """Bytes of a matrix's full decomposition: its copy, both sides' singular vectors, and LAPACK's working memory."""
    shorter = min(inputs, outputs)
    vectors = shorter * (inputs + outputs + 1)
    return NUMBER * (inputs * outputs + vectors + 4 * shorter**2 + BLOCK * (inputs + outputs))


def randomized_svd_bytes(inputs: int, outputs: int, r: int) -> int:
    """Bytes of a decomposition into r directions: bases of both sides while each is made orthogonal."""
    return NUMBER * ((4 * r + BLOCK) * (inputs + outputs) + 4 * r**2)
