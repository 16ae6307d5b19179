"""Weight types of GGUF files: quantized into the bytes that llama.cpp reads, and read back by the `gguf` package.

The package also quantizes the plain types; it only reads the k-quants, which k_quants.py packs. Rows that are no whole
blocks of a type get another one, as llama.cpp does it (llama-quant.cpp): q4_k becomes q5_0, q5_k q5_1, q6_k q8_0; where
it takes iq4_nl, which nothing here can write, this takes q4_0.
"""

from collections import Counter
from collections.abc import Iterable

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from playground.lab import k_quants

FALLBACKS = {
    **dict.fromkeys(("q2_k", "q3_k", "tq1_0", "tq2_0"), "q4_0"),
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
}
SMALLEST_BLOCK = 32  # of the types that there are left then


def type_for_rows(variant: str, columns: int) -> GGMLQuantizationType:
    """The type for rows of so many weights: `variant`, or what replaces it where they are no whole blocks of it."""
    kind = GGMLQuantizationType[variant.upper()]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if columns % block == 0 else GGMLQuantizationType[FALLBACKS.get(variant, variant).upper()]


def replacements(variant: str, shapes: Iterable[tuple[int, int]]) -> dict[str, float]:
    """The types that matrices of these shapes (out, in) get instead of `variant`, and their share of all weights."""
    sizes: Counter[str] = Counter()
    for rows, columns in shapes:
        sizes[type_for_rows(variant, columns).name.lower()] += rows * columns
    return {name: size / sizes.total() for name, size in sizes.items() if name != variant}


def quantize(weight: Tensor, variant: str) -> tuple[Tensor, int]:
    """The values of a weight (out, in), float32, in a type such as "q4_k", and the bytes that it takes."""
    kind = type_for_rows(variant, weight.shape[1])
    packed = pack(weight, kind)
    values = torch.from_numpy(gguf.dequantize(packed, kind)).view_as(weight)
    return values.to(weight.device), packed.nbytes


def pack(weight: Tensor, kind: GGMLQuantizationType) -> np.ndarray:
    """A weight (out, in), float32, as the bytes of a type that has whole blocks in its rows; (out, bytes of a row)."""
    name, (block, _) = kind.name.lower(), gguf.GGML_QUANT_SIZES[kind]
    if name in k_quants.PACKERS:
        return k_quants.PACKERS[name](weight.reshape(-1, block)).reshape(len(weight), -1).cpu().numpy()
    return gguf.quantize(weight.cpu().numpy(), kind)


def bits_per_weight(variant: str, columns: int) -> float:
    """Stored bits a weight, of codes and scales together, in rows of so many weights."""
    block, size = gguf.GGML_QUANT_SIZES[type_for_rows(variant, columns)]
    return 8 * size / block
