"""Frozen 4-bit weights (nf4) multiplied in float8: stored as bitsandbytes stores them, dense in e4m3 for one product.

A product in bfloat16 first makes the weight dense in bfloat16: twice the bytes of float8, and a product at half the
rate. Here one kernel turns the codes straight into e4m3 with a scale a row, as they lie for the forward pass and
transposed for the backward one; activations and gradients are quantized as for weights in float8 (float8.py). A row's
scale is the largest absmax of its blocks / 448, kept with the weight (4 bytes a row). So a weight is rounded twice: to
4 bits as it is loaded, and to e4m3's three bits for each product.
"""

from functools import cache
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn

from playground import compat
from playground.model import float8


def prepare(model: nn.Module) -> None:
    """Have the 4-bit layers of a model (or one layer) multiply in float8 where they are trained, if their sizes allow.

    Rows have to be whole blocks of weights, and both sizes multiples of 16. Answers are computed as for plain nf4.
    """
    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            state = _state(layer)
            rows, columns = state.shape
            if not (columns % state.blocksize or columns % float8.ALIGNMENT or rows % float8.ALIGNMENT):
                state.float8_row_scales = _row_scales(state)


def is_fast(layer: nn.Module) -> bool:
    """Whether a layer multiplies in float8 where it is trained."""
    return isinstance(layer, Linear4bit) and row_scales(_state(layer)) is not None


def row_scales(state: Any) -> Tensor | None:
    """What `prepare` has kept in a weight's quantization state: scales (rows,) in float32."""
    return getattr(state, "float8_row_scales", None)


def dense_float8(
    packed: Tensor, constants: list[Tensor], block_size: int, constants_block_size: int, columns: int, transposed: bool
) -> Tensor:
    """The e4m3 codes (rows, columns) of a packed weight, or (columns, rows) if `transposed`.

    constants and sizes: as of a `FrozenWeight` of the format "nf4-fast".
    """
    *absmax, levels, scales = constants
    rows = scales.shape[0]
    if packed.is_meta:
        compat.count_meta_kernel("dequantize:float8", rows * columns, packed.nbytes + rows * columns)
        return packed.new_empty((columns, rows) if transposed else (rows, columns), dtype=float8.E4M3)
    return _kernels().dense_float8(
        packed, levels, scales, absmax, block_size, constants_block_size, columns, transposed
    )


def _state(layer: Any) -> Any:
    return layer.weight.quant_state


def _row_scales(state: Any) -> Tensor:
    if state.absmax.is_meta:
        return torch.empty(state.shape[0], dtype=torch.float32, device="meta")
    absmax = state.absmax
    if state.state2 is not None:
        inner = state.state2
        absmax = torch.ops.bitsandbytes.dequantize_blockwise(
            absmax, inner.absmax, inner.code, inner.blocksize, torch.float32
        ).add_(state.offset)
    largest = absmax.float().view(state.shape[0], -1).abs().amax(1)
    return torch.where(largest > 0, largest / float8.LARGEST, torch.ones_like(largest))


@cache
def _kernels() -> Any:
    """The module of Triton kernels, which can't be imported without Triton."""
    from playground.model import nf4_kernels

    return nf4_kernels
