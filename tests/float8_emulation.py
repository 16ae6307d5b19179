"""float8 products on any machine, with a GPU's rounding, computed in float32; int8-fast by the CPU's kernels."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor

from playground.model import float8, int8_fast, nf4_fast
from playground.train import quantized_ops


def quantize_tokens(x: Tensor, factors: Tensor | None) -> tuple[Tensor, Tensor]:
    codes, scales = float8.quantize_rows(x.float() if factors is None else x.float() * factors)
    return codes.view(float8.E4M3), scales


def _multiply(a: Tensor, b: Tensor, a_scales: Tensor, b_scales: Tensor, bias: Tensor | None) -> Tensor:
    product = a.float() @ b.view(float8.E4M3).float().T * a_scales[:, None] * b_scales[None, :]
    return (product if bias is None else product + bias.float()).to(torch.bfloat16)


def _dense_float8(
    packed: Tensor,
    levels: Tensor,
    row_scales: Tensor,
    constants: list[Tensor],
    block_size: int,
    constants_block_size: int,
    columns: int,
    transposed: bool,
) -> Tensor:
    shape = row_scales.shape[0], columns
    weight = quantized_ops.FrozenWeight(packed, "nf4", constants, block_size, constants_block_size, *shape)
    codes = (quantized_ops.dequantize(weight, torch.float32) / row_scales[:, None]).to(float8.E4M3)
    return codes.T.contiguous() if transposed else codes


@contextlib.contextmanager
def float8_products() -> Iterator[None]:
    """Within it, models loaded as fp8, nf4-fast or int8-fast multiply in 8 bits on any CPU."""
    kernels = SimpleNamespace(quantize_tokens=quantize_tokens, transpose=lambda codes: codes.T.contiguous())
    with (
        mock.patch.object(float8, "has_products", lambda device: True),
        mock.patch.object(float8, "_kernels", lambda: kernels),
        mock.patch.object(float8, "multiply", _multiply),
        mock.patch.object(int8_fast, "has_products", lambda device: True),
        mock.patch.object(nf4_fast, "_kernels", lambda: SimpleNamespace(dense_float8=_dense_float8)),
    ):
        yield
