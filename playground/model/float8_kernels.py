"""Triton kernels for float8 products: quantize the rows of a matrix, and transpose a matrix of bytes."""

import torch
import triton
import triton.language as tl
from torch import Tensor

E4M3 = torch.float8_e4m3fn
TILE = 128


@triton.jit
def _quantize_tokens(x, factors, codes, scales, columns, x_stride, HAS_FACTORS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < columns
    values = tl.load(x + row * x_stride + offsets, mask=inside, other=0.0).to(tl.float32)
    if HAS_FACTORS:
        values = values * tl.load(factors + offsets, mask=inside, other=0.0)
    largest = tl.max(tl.abs(values), 0)
    scale = tl.where(largest > 0, largest / 448.0, 1.0)
    tl.store(scales + row, scale)
    tl.store(codes + row * columns + offsets, (values / scale).to(tl.float8e4nv), mask=inside)


def quantize_tokens(x: Tensor, factors: Tensor | None) -> tuple[Tensor, Tensor]:
    """(e4m3 codes, float32 scales (rows,)) of x (rows, columns), its columns multiplied by `factors` first."""
    if x.stride(1) != 1:
        x = x.contiguous()
    rows, columns = x.shape
    codes = torch.empty(rows, columns, dtype=E4M3, device=x.device)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(columns)
    warps = 4 if block <= 4096 else 8 if block <= 8192 else 16
    _quantize_tokens[(rows,)](
        x, factors, codes, scales, columns, x.stride(0), HAS_FACTORS=factors is not None, BLOCK=block, num_warps=warps
    )
    return codes, scales


@triton.jit
def _transpose(source, target, rows, columns, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    tile = tl.load(source + row[:, None] * columns + column[None, :], mask=inside, other=0)
    inside = (column[:, None] < columns) & (row[None, :] < rows)
    tl.store(target + column[:, None] * rows + row[None, :], tl.trans(tile), mask=inside)


def transpose(codes: Tensor) -> Tensor:
    """A matrix of bytes (rows, columns) as a new one (columns, rows)."""
    rows, columns = codes.shape
    target = torch.empty(columns, rows, dtype=codes.dtype, device=codes.device)
    grid = (triton.cdiv(rows, TILE), triton.cdiv(columns, TILE))
    _transpose[grid](codes, target, rows, columns, TILE=TILE, num_warps=8)
    return target
