"""Half-quadratic quantization (Badri and Shaji 2023, https://mobiusml.github.io/hqq_blog/): a zero point a block that
suits most of its weights, found in closed form, step by step, without data.
"""

import torch
from torch import Tensor

from playground.lab.formats import Format
from playground.lab.scales import as_half, in_scales

NORM = 0.7  # of the error's l_p norm: below 1, so that outliers count less
STRENGTH, GROWTH = 10.0, 1.01  # of the penalty that ties the error's estimate to the error
STEPS = 20
LARGEST_ZERO = 6e4  # of a zero point, which float16 still holds after the search has moved it


def half_quadratic(blocks: Tensor, format: Format) -> tuple[Tensor, int]:
    """The values of blocks (n, size) as (code - zero) * step, and the bytes of steps and zero points at 16 bits."""
    return decoded(blocks, *steps_and_zeros(blocks, format.bits), format.bits)


def decoded(blocks: Tensor, step: Tensor, zero: Tensor, bits: int) -> tuple[Tensor, int]:
    """The values of blocks (n, size) with these steps and zero points (n, 1), and the bytes of both."""
    codes = (in_scales(blocks, step) + zero).round().clamp(0, 2**bits - 1)
    return (codes - zero) * step, 4 * len(blocks)


def steps_and_zeros(blocks: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The step between two values and the zero point of each block of (n, size), as stored at 16 bits; (n, 1) each.

    The search alternates: estimate the sparse part of the error by shrinking it, then move the zero point to the mean
    of what is left. A step of it that doesn't lessen the mean error ends it.
    """
    largest = 2**bits - 1
    low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
    scale = (largest / (high - low).clamp(min=1e-8)).clamp(max=2e4)
    scale = torch.minimum(scale, LARGEST_ZERO / torch.maximum(low.abs(), high.abs()).clamp(min=1e-8))
    zero = -low * scale
    best_error, best_zero, strength = torch.inf, zero, STRENGTH
    for _ in range(STEPS):
        codes = (blocks * scale + zero).round().clamp(0, largest)
        error = blocks - (codes - zero) / scale
        mean_error = float(error.abs().mean())
        if mean_error >= best_error:
            break
        best_error, best_zero = mean_error, zero
        sparse = error.sign() * (error.abs() - error.abs().clamp(min=1e-8).pow(NORM - 1) / strength).clamp(min=0)
        zero = (codes - (blocks - sparse) * scale).mean(1, keepdim=True)
        strength *= GROWTH
    return as_half(1 / scale), as_half(best_zero)
