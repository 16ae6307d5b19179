"""Triton kernels for products of 8-bit integers: quantize the rows of a matrix, and multiply with the scales inside."""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

# Tiles of a product: rows, columns, numbers of the summed axis, warps, stages. For many rows the fastest of nine on an
# H100; GPUs before it have neither its products of a whole warp group nor shared memory for such tiles.
FEW_ROWS = 64
SMALL_TILES = (64, 64, 64, 4, 3)
TILES = {9: (128, 128, 128, 4, 3), 0: (128, 128, 64, 4, 3)}  # by the least major compute capability
GROUP = 8  # tiles down before the next ones across, so that they find each other's rows in the cache


@triton.jit
def _quantize_tokens(x, factors, codes, scales, columns, x_stride, HAS_FACTORS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < columns
    values = tl.load(x + row * x_stride + offsets, mask=inside, other=0.0).to(tl.float32)
    if HAS_FACTORS:
        values = values * tl.load(factors + offsets, mask=inside, other=0.0)
    largest = tl.max(tl.abs(values), 0)
    scale = tl.where(largest > 0, largest / 127.0, 1.0)
    tl.store(scales + row, scale)
    scaled = values / scale
    rounded = (scaled + tl.where(scaled < 0, -0.5, 0.5)).to(tl.int32)  # towards zero: to the nearest
    tl.store(codes + row * columns + offsets, rounded.to(tl.int8), mask=inside)


def quantize_tokens(x: Tensor, factors: Tensor | None) -> tuple[Tensor, Tensor]:
    """(int8 codes, float32 scales (rows,)) of x (rows, columns), its columns multiplied by `factors` first."""
    if x.stride(1) != 1:
        x = x.contiguous()
    rows, columns = x.shape
    codes = torch.empty(rows, columns, dtype=torch.int8, device=x.device)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(columns)
    warps = 4 if block <= 4096 else 8 if block <= 8192 else 16
    _quantize_tokens[(rows,)](
        x, factors, codes, scales, columns, x.stride(0), HAS_FACTORS=factors is not None, BLOCK=block, num_warps=warps
    )
    return codes, scales


@triton.jit
def _multiply(
    a,
    b,
    a_scales,
    b_scales,
    bias,
    target,
    rows,
    columns,
    depth,
    HAS_SCALES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    GROUP: tl.constexpr,
):
    tiles_down, tiles_across = tl.cdiv(rows, M), tl.cdiv(columns, N)
    program = tl.program_id(0)
    band = program // (GROUP * tiles_across)
    height = min(tiles_down - band * GROUP, GROUP)
    down = band * GROUP + (program % (GROUP * tiles_across)) % height
    across = (program % (GROUP * tiles_across)) // height
    row, column, k = down * M + tl.arange(0, M), across * N + tl.arange(0, N), tl.arange(0, K)
    a_tile = a + (row % rows).to(tl.int64)[:, None] * depth + k[None, :]
    b_tile = b + (column % columns).to(tl.int64)[None, :] * depth + k[:, None]
    total = tl.zeros((M, N), dtype=tl.int32)
    for start in range(0, depth, K):
        inside = k < depth - start
        left = tl.load(a_tile, mask=inside[None, :], other=0)
        right = tl.load(b_tile, mask=inside[:, None], other=0)
        total = tl.dot(left, right, total, out_dtype=tl.int32)
        a_tile += K
        b_tile += K
    values = total.to(tl.float32) * tl.load(a_scales + row % rows)[:, None]
    if HAS_SCALES:
        values *= tl.load(b_scales + column % columns)[None, :]
    if HAS_BIAS:
        values += tl.load(bias + column % columns).to(tl.float32)[None, :]
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    tl.store(
        target + row.to(tl.int64)[:, None] * columns + column[None, :], values.to(target.dtype.element_ty), mask=inside
    )


def multiply(
    a: Tensor,
    b: Tensor,
    a_scales: Tensor,
    b_scales: Tensor | None,
    bias: Tensor | None,
    dtype: torch.dtype,
    tiles: tuple[int, int, int, int, int] | None = None,
) -> Tensor:
    """a bᵀ + bias in `dtype` of int8 codes a (rows, depth) and b (columns, depth) with a scale a row (None: 1)."""
    (rows, depth), columns = a.shape, b.shape[0]
    target = torch.empty(rows, columns, dtype=dtype, device=a.device)
    down, across, deep, warps, stages = tiles or (SMALL_TILES if rows <= FEW_ROWS else _large_tiles())
    _multiply[(triton.cdiv(rows, down) * triton.cdiv(columns, across),)](
        a,
        b,
        a_scales,
        b_scales,
        bias,
        target,
        rows,
        columns,
        depth,
        HAS_SCALES=b_scales is not None,
        HAS_BIAS=bias is not None,
        M=down,
        N=across,
        K=deep,
        GROUP=GROUP,
        num_warps=warps,
        num_stages=stages,
    )
    return target


@cache
def _large_tiles() -> tuple[int, int, int, int, int]:
    major = torch.cuda.get_device_capability()[0] if torch.cuda.is_available() else 0
    return next(tiles for least, tiles in TILES.items() if major >= least)
