"""Quantize a weight in any format of formats.py, and return the values it becomes and the bytes it takes.

Blocks run along the flattened weight, as in bitsandbytes; a last one may be shorter. Products with these values are
those of a kernel that unpacks weights before it multiplies.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes import functional as bnb
from torch import Tensor
from torch.nn import functional

from playground.errors import Problem
from playground.lab import gguf_types, microscaling
from playground.lab.codebooks import codebook
from playground.lab.formats import UNQUANTIZED, Format
from playground.lab.hqq import half_quadratic
from playground.lab.scales import as_half, in_scales

TRITS_PER_BYTE = 5  # 3^5 = 243 of 256


@dataclass(frozen=True)
class Quantized:
    """values: what the weight becomes, float32, in its shape. bytes: of its codes, scales and zero points as stored."""

    values: Tensor
    bytes: int


def quantize(weight: Tensor, format: Format) -> Quantized:
    """Quantize a weight of shape (out, in); `block_problems` says whether its rows fit the format's blocks."""
    weight = weight.detach().float()
    if format.kind == UNQUANTIZED:
        return Quantized(weight.bfloat16().float(), 2 * weight.numel())
    if format.kind == "gguf":
        return Quantized(*gguf_types.quantize(weight, format.variant))
    if format.kind in ("nf4", "fp4"):
        return _by_bitsandbytes(weight, format)
    if format.kind in microscaling.FORMATS:
        return Quantized(*microscaling.FORMATS[format.kind](weight))
    if format.kind == "hqq":
        return Quantized(*in_blocks(weight, format, half_quadratic))
    return Quantized(*in_blocks(weight, format, _ternary if format.kind == "ternary" else _by_largest))


def block_problems(formats: Iterable[Format], columns: Iterable[int]) -> list[Problem]:
    """Formats whose blocks lie along a row and don't divide one. columns: weights in a row, of each layer."""
    sizes = {"gguf": gguf_types.SMALLEST_BLOCK, "mxfp4": microscaling.MXFP4_BLOCK, "nvfp4": microscaling.NVFP4_BLOCK}
    widths = sorted(set(columns))
    return [
        Problem("error.lab_rows", {"name": format.name, "columns": width, "block": sizes[format.kind]})
        for format in formats
        for width in widths
        if format.kind in sizes and width % sizes[format.kind]
    ]


def bits_per_weight(format: Format, shape: tuple[int, int]) -> float:
    """Stored bits a weight of a matrix of this shape, by formula: the code's, and its share of a block's constants."""
    rows, columns = shape
    of_block = 1 / format.block if format.block else 0.0
    formulas: dict[str, float] = {
        UNQUANTIZED: 16,
        "ternary": 8 / TRITS_PER_BYTE + 16 * of_block,
        "hqq": format.bits + 32 * of_block,  # a scale and a zero point
        "nf4": 4 + 32 * of_block,
        "fp4": 4 + 32 * of_block,
        "fp8": 8 + 32 / columns,  # a scale a row
        "nvfp4": 4 + 8 / 16 + 32 / (rows * columns),  # and one for the tensor
        "mxfp4": 4 + 8 / 32,
    }
    if format.kind == "gguf":
        return gguf_types.bits_per_weight(format.variant, columns)
    return formulas.get(format.kind, format.bits + 16 * of_block)


def _by_bitsandbytes(weight: Tensor, format: Format) -> Quantized:
    """What bitsandbytes itself makes of it, without double quantization."""
    packed, state = bnb.quantize_4bit(weight.contiguous(), blocksize=format.block, quant_type=format.kind)
    values = bnb.dequantize_4bit(packed, state)
    return Quantized(values, packed.nbytes + state.absmax.nbytes)


def in_blocks(weight: Tensor, format: Format, of_blocks: Any) -> tuple[Tensor, int]:
    """Quantize the flattened weight block by block; `of_blocks(blocks, format)` returns their values and bytes."""
    flat = weight.flatten()
    missing = -len(flat) % format.block
    blocks = functional.pad(flat, (0, missing)).view(-1, format.block)
    values, constants = of_blocks(blocks, format)
    code_bits = 8 / TRITS_PER_BYTE if format.kind == "ternary" else format.bits
    return values.flatten()[: len(flat)].view_as(weight), round(code_bits * len(flat) / 8) + constants


def _by_largest(blocks: Tensor, format: Format) -> tuple[Tensor, int]:
    """The nearest value of the codebook times the block's largest magnitude, which is kept at 16 bits."""
    scales = as_half(blocks.abs().amax(1, keepdim=True))
    values = codebook(format.kind, format.bits).to(blocks.device)
    middles = (values[1:].double() + values[:-1].double()).div(2).float()
    codes = torch.bucketize(in_scales(blocks, scales).clamp(-1, 1), middles)
    return values[codes] * scales, 2 * len(scales)


def _ternary(blocks: Tensor, format: Format) -> tuple[Tensor, int]:
    """-1, 0 or 1 times the block's mean magnitude, as BitNet b1.58 has it (arXiv 2402.17764)."""
    scales = as_half(blocks.abs().mean(1, keepdim=True))
    codes = in_scales(blocks, scales).round().clamp(-1, 1)
    return codes * scales, 2 * len(scales)
