"""Weight types of GGUF files: quantized into the bytes that llama.cpp reads, and read back by the `gguf` package.

The package also quantizes the plain types; it only reads the k-quants, which k_quants.py packs.
"""

import gguf
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from playground.errors import problem
from playground.lab import k_quants


def quantize(weight: Tensor, variant: str) -> tuple[Tensor, int]:
    """The values of a weight (out, in), float32, in a type such as "q4_k", and the bytes that it takes.

    Raises PlaygroundError where its rows aren't whole blocks of that type.
    """
    kind = GGMLQuantizationType[variant.upper()]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    if weight.shape[1] % block:
        raise problem("error.lab_rows", columns=weight.shape[1], block=block)
    if variant in k_quants.PACKERS:
        packed = k_quants.PACKERS[variant](weight.reshape(-1, block)).reshape(len(weight), -1).cpu().numpy()
    else:
        packed = gguf.quantize(weight.cpu().numpy(), kind)
    values = torch.from_numpy(gguf.dequantize(packed, kind)).view_as(weight)
    return values.to(weight.device), packed.nbytes


def bits_per_weight(variant: str) -> float:
    """Stored bits a weight, of codes and scales together."""
    block, size = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[variant.upper()]]
    return 8 * size / block
