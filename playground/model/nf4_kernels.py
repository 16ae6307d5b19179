"""Triton kernel that makes a packed 4-bit weight of bitsandbytes dense in float8 (e4m3), as it lies or transposed."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from playground.model.float8_kernels import E4M3

TILE_ROWS, TILE_BLOCKS = 64, 2  # of a program: rows, and blocks of weights that share one absmax


@triton.jit
def _absmax(codes, code_book, scales, offset, index, inside, BLOCKS: tl.constexpr, TWICE: tl.constexpr):
    """The largest magnitude of blocks of weights. BLOCKS: how many share a scale, where they were quantized too."""
    if not TWICE:
        return tl.load(codes + index, mask=inside, other=0.0)
    code = tl.load(codes + index, mask=inside, other=0).to(tl.int32)
    return tl.load(code_book + code) * tl.load(scales + index // BLOCKS, mask=inside, other=0.0) + tl.load(offset)


@triton.jit
def _dense(
    packed,
    levels,
    row_scales,
    codes,
    code_book,
    scales,
    offset,
    target,
    rows,
    columns,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    TWICE: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(1).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    groups = columns // BLOCK
    inside = (row[:, None] < rows) & (group[None, :] < groups)
    index = row[:, None] * groups + group[None, :]
    factor = _absmax(codes, code_book, scales, offset, index, inside, BLOCKS, TWICE)
    factor = factor / tl.load(row_scales + row, mask=row < rows, other=1.0)[:, None]
    byte = tl.arange(0, BLOCK // 2)
    pairs = tl.load(
        packed + index[:, :, None] * (BLOCK // 2) + byte[None, None, :], mask=inside[:, :, None], other=0
    ).to(tl.int32)
    first = tl.load(levels + (pairs >> 4)) * factor[:, :, None]
    second = tl.load(levels + (pairs & 15)) * factor[:, :, None]
    tile = tl.reshape(tl.join(first, second), (ROWS, GROUPS * BLOCK)).to(tl.float8e4nv)
    column = tl.program_id(1).to(tl.int64) * GROUPS * BLOCK + tl.arange(0, GROUPS * BLOCK)
    if TRANSPOSED:
        inside = (column[:, None] < columns) & (row[None, :] < rows)
        tl.store(target + column[:, None] * rows + row[None, :], tl.trans(tile), mask=inside)
    else:
        inside = (row[:, None] < rows) & (column[None, :] < columns)
        tl.store(target + row[:, None] * columns + column[None, :], tile, mask=inside)


def dense_float8(
    packed: Tensor,
    levels: Tensor,
    row_scales: Tensor,
    constants: list[Tensor],
    block_size: int,
    constants_block_size: int,
    columns: int,
    transposed: bool,
) -> Tensor:
    """The e4m3 codes (rows, columns), or (columns, rows) if `transposed`, of a packed weight divided by its row scales.

    packed: two codes a byte, the first in its upper half. levels: the 16 numbers that the codes mean. constants and
    sizes: as of a `FrozenWeight`. columns: a multiple of `block_size`.
    """
    rows = row_scales.shape[0]
    target = torch.empty((columns, rows) if transposed else (rows, columns), dtype=E4M3, device=packed.device)
    twice = len(constants) > 1
    absmax, code_book, scales, offset = constants if twice else (constants[0],) * 4
    groups = max(1, TILE_BLOCKS * 64 // block_size)
    grid = (triton.cdiv(rows, TILE_ROWS), triton.cdiv(columns, groups * block_size))
    _dense[grid](
        packed,
        levels,
        row_scales,
        absmax,
        code_book,
        scales,
        offset,
        target,
        rows,
        columns,
        BLOCK=block_size,
        BLOCKS=constants_block_size or 1,
        TWICE=twice,
        TRANSPOSED=transposed,
        ROWS=TILE_ROWS,
        GROUPS=groups,
        num_warps=8,
    )
    return target
