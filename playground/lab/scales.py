"""Scales of blocks as they are stored, at 16 bits: what a weight is divided by is what its code is multiplied with."""

from torch import Tensor

from playground.errors import problem

SMALLEST = 2.0**-24  # of float16, subnormal: a weight of 0 is divided by it where a scale is stored as 0


def as_half(scales: Tensor) -> Tensor:
    """Scales rounded to float16. Raises PlaygroundError for weights beyond its range."""
    stored = scales.half().float()
    if not stored.isfinite().all():
        raise problem("error.lab_range", largest=float(scales.max()))
    return stored


def in_scales(blocks: Tensor, scales: Tensor) -> Tensor:
    """Blocks (n, size) divided by their stored scales (n, 1)."""
    return blocks / scales.clamp(min=SMALLEST)
