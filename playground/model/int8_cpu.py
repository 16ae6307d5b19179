"""Products of 8-bit integers on a CPU, by oneDNN: faster than bfloat16 where the CPU has instructions for them (VNNI).

The same functions as int8_kernels.py has for GPUs. Everything goes block by block of rows, so that the 32-bit integers
that oneDNN returns, and float32 copies, stay small.
"""

import torch
from torch import Tensor

from playground.model.row_scales import row_blocks

LARGEST = 127


def quantize_tokens(x: Tensor, factors: Tensor | None) -> tuple[Tensor, Tensor]:
    """(int8 codes, float32 scales (rows,)) of x, its columns multiplied by `factors` first.

    A row of zeros gets the scale 1.
    """
    codes = torch.empty(x.shape, dtype=torch.int8)
    scales = torch.empty(x.shape[0], dtype=torch.float32)
    blocks = list(row_blocks(x.shape))
    sizes = (max((rows.stop - rows.start for rows in blocks), default=0), x.shape[1])
    values, magnitudes = torch.empty(sizes), torch.empty(sizes)  # for all blocks: new memory costs more than the work
    for rows in blocks:
        block, magnitude = values[: rows.stop - rows.start], magnitudes[: rows.stop - rows.start]
        block.copy_(x[rows])
        if factors is not None:
            block.mul_(factors)
        largest = torch.abs(block, out=magnitude).amax(1).div_(LARGEST)
        scales[rows] = largest.masked_fill_(largest == 0, 1)
        codes[rows] = block.div_(largest[:, None]).round_()
    return codes, scales


def multiply(
    a: Tensor, b: Tensor, a_scales: Tensor, b_scales: Tensor | None, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """a bᵀ + bias in `dtype`, (m, n), of codes a (m, k) and b (n, k) with a scale a row (None: 1)."""
    product = torch.empty(a.shape[0], b.shape[0], dtype=dtype)
    for rows in row_blocks(product.shape):
        block = torch._int_mm(a[rows], b.t()).float().mul_(a_scales[rows, None])
        if b_scales is not None:
            block.mul_(b_scales)
        product[rows] = block if bias is None else block.add_(bias)
    return product
