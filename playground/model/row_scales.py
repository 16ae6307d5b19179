"""Dequantize codes that have a scale a row, and the blocks of rows in which a CPU works on a matrix."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BLOCK = 2**19  # numbers of a block: 2 MiB in float32, which stays in a CPU's caches


def row_blocks(shape: Sequence[int]) -> Iterator[slice]:
    """The rows of a matrix of that shape, in blocks of at most BLOCK numbers, of one row at least."""
    rows, columns = shape
    step = max(1, BLOCK // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def scale_rows(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """codes (out, in) × scales (out,) as a matrix in `dtype`.

    On a CPU block by block: of operands of two types torch makes whole copies in float32 there, which takes 8 bytes a
    number and, where these are megabytes, 20 times as long (torch 2.13).
    """
    dense = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    if codes.device.type != "cpu":
        return torch.mul(codes, scales[:, None], out=dense)
    for rows in row_blocks(codes.shape):
        torch.mul(codes[rows], scales[rows, None], out=dense[rows])
    return dense
