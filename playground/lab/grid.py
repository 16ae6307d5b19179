"""The values that a number format has for the first block of a weight: its codebook times the block's scale."""

import torch
from bitsandbytes import functional as bnb
from torch import Tensor

from playground.lab import microscaling
from playground.lab.codebooks import codebook
from playground.lab.formats import Format
from playground.lab.hqq import decoded, steps_and_zeros
from playground.lab.quantize import Quantized, in_blocks, quantize
from playground.lab.scales import as_half

BLOCKS_OF_ROWS = {"mxfp4": microscaling.MXFP4_BLOCK, "nvfp4": microscaling.NVFP4_BLOCK}


def block_size(format: Format) -> int:
    """Weights that share a scale; 0 where that depends on the layer: a row, or blocks of blocks."""
    return format.block or BLOCKS_OF_ROWS.get(format.kind, 0)


def quantize_with_grid(weight: Tensor, format: Format) -> tuple[Quantized, Tensor | None]:
    """A quantized weight (out, in), and the values of its first block as `_block_grid` has them."""
    if format.kind != "hqq":
        return quantize(weight, format), _block_grid(weight, format)
    grids = []

    def search(blocks: Tensor, format: Format) -> tuple[Tensor, int]:
        step, zero = steps_and_zeros(blocks, format.bits)
        grids.append((torch.arange(2**format.bits) - zero[0]) * step[0])
        return decoded(blocks, step, zero, format.bits)

    return Quantized(*in_blocks(weight, format, search)), grids[0]


def _block_grid(weight: Tensor, format: Format) -> Tensor | None:
    """The values that there are for the first block of a weight (out, in), float32, sorted; None: not drawn as a grid.

    bf16 has too many, and the GGUF types have scales of scales.
    """
    first = weight.flatten()[None, : format.block or None]
    if format.kind in ("int", "float", "quantile"):
        return codebook(format.kind, format.bits) * as_half(first.abs().amax())
    if format.kind == "ternary":
        return torch.tensor([-1.0, 0.0, 1.0]) * as_half(first.abs().mean())
    if format.kind in ("nf4", "fp4"):
        _, state = bnb.quantize_4bit(first.contiguous(), blocksize=format.block, quant_type=format.kind)
        return (state.code * state.absmax[0]).unique()
    if format.kind == "fp8":
        return microscaling.e4m3_values() * microscaling.fp8_scales(weight[:1]).flatten()
    if format.kind in BLOCKS_OF_ROWS:
        values = torch.tensor(microscaling.E2M1)
        codes = torch.cat([-values.flip(0), values]).unique()
        if format.kind == "mxfp4":
            return codes * microscaling.mxfp4_scales(weight)[0]
        of_blocks, of_tensor = microscaling.nvfp4_scales(weight)
        return codes * of_blocks[0] * of_tensor
    return None
