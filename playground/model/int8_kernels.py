"""Triton kernels for products of 8-bit integers: quantize the rows of a matrix, and multiply with the scales inside."""

import torch
import triton
import triton.language as tl
from torch import Tensor

CONFIGS = [
    triton.Config({"M": m, "N": n, "K": k, "GROUP": 8}, num_warps=warps, num_stages=stages)
    for m, n, k, warps, stages in (
        (128, 256, 128, 8, 3),
        (256, 128, 128, 8, 3),
        (128, 128, 128, 8, 4),
        (128, 128, 128, 4, 3),
        (128, 256, 64, 8, 4),
        (128, 128, 64, 4, 4),
        (64, 128, 64, 4, 4),
        (64, 64, 64, 4, 3),
    )
]


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


@triton.autotune(CONFIGS, key=["columns", "depth", "rows_class"])
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
    rows_class,
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
    values = total.to(tl.float32) * tl.load(a_scales + row % rows)[:, None] * tl.load(b_scales + column % columns)
    if HAS_BIAS:
        values += tl.load(bias + column % columns).to(tl.float32)[None, :]
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    tl.store(
        target + row.to(tl.int64)[:, None] * columns + column[None, :],
        values.to(target.dtype.element_ty),
        mask=inside,
    )


def multiply(a: Tensor, b: Tensor, a_scales: Tensor, b_scales: Tensor, bias: Tensor | None) -> Tensor:
    """a bᵀ + bias in bfloat16 of int8 codes a (rows, depth) and b (columns, depth) with a scale a row."""
    (rows, depth), columns = a.shape, b.shape[0]
    target = torch.empty(rows, columns, dtype=torch.bfloat16, device=a.device)
    _multiply[lambda config: (triton.cdiv(rows, config["M"]) * triton.cdiv(columns, config["N"]),)](
        a, b, a_scales, b_scales, bias, target, rows, columns, depth, min(rows, 2048) // 256, HAS_BIAS=bias is not None
    )
    return target


@triton.jit
def _scale_products(products, a_scales, b_scales, target, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    values = tl.load(products + row * columns + column, mask=inside, other=0).to(tl.float32)
    values = values * tl.load(a_scales + row) * tl.load(b_scales + column, mask=inside, other=0.0)
    tl.store(target + row * columns + column, values.to(target.dtype.element_ty), mask=inside)


def scale_products(products: Tensor, a_scales: Tensor, b_scales: Tensor) -> Tensor:
    """int32 products (rows, columns) times both scales, in bfloat16."""
    rows, columns = products.shape
    target = torch.empty(rows, columns, dtype=torch.bfloat16, device=products.device)
    _scale_products[(rows, triton.cdiv(columns, 2048))](products, a_scales, b_scales, target, columns, BLOCK=2048)
    return target
