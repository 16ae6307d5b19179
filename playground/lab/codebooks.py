"""The values that a code of k bits can stand for, times a block's scale: sorted, the largest magnitude 1.

Data types as in "The case for 4-bit precision: k-bit inference scaling laws" (Dettmers and Zettlemoyer,
arXiv 2212.09720); the quantile type is the normal float of QLoRA (arXiv 2305.14314) at any width.
"""

from functools import cache

import torch
from torch import Tensor


@cache
def codebook(kind: str, bits: int) -> Tensor:
    """The sorted values of "int", "float" or "quantile" at `bits`, float32."""
    return {"int": _integers, "float": _floats, "quantile": _normal_quantiles}[kind](bits)


def _integers(bits: int) -> Tensor:
    """Evenly spaced and symmetric: -n … n over n, with n = 2^(bits-1) - 1."""
    largest = 2 ** (bits - 1) - 1
    return torch.arange(-largest, largest + 1, dtype=torch.float32) / largest


def _floats(bits: int) -> Tensor:
    """Sign, exponent and mantissa, with subnormal numbers and without infinity; at least half the bits are exponent."""
    exponent_bits = (bits + 1) // 2
    steps = 2 ** (bits - 1 - exponent_bits)
    magnitudes = [step / steps * 2.0 for step in range(steps)]  # exponent code 0: subnormal, in steps of the next one
    for exponent in range(1, 2**exponent_bits):
        magnitudes += [(1 + step / steps) * 2.0**exponent for step in range(steps)]
    positive = torch.tensor(magnitudes, dtype=torch.float64)
    return torch.cat([-positive.flip(0), positive]).div(positive.max()).unique().float()


def _normal_quantiles(bits: int) -> Tensor:
    """Quantiles of the normal distribution, with an exact 0 and one more positive value than negative ones."""
    half = 2 ** (bits - 1)
    offset = 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2
    positive = torch.special.ndtri(torch.linspace(offset, 0.5, half + 1, dtype=torch.float64)[:-1])
    negative = -torch.special.ndtri(torch.linspace(offset, 0.5, half, dtype=torch.float64)[:-1])
    values = torch.cat([negative, torch.zeros(1, dtype=torch.float64), positive]).sort().values
    return (values / values.abs().max()).float()
