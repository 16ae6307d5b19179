"""Quantize weights to 4 bits on a CPU piece by piece, which takes less memory."""

import contextlib
from collections.abc import Sequence
from typing import Any

import bitsandbytes  # noqa: F401  # imported for its operators, which torch.ops.bitsandbytes has from then on
import torch
from torch.utils._python_dispatch import TorchDispatchMode

PIECE = 2**18  # weights: 1 MiB each time that bitsandbytes writes them as float32


class QuantizeInPieces(TorchDispatchMode):
    """A context in which bitsandbytes' `quantize_4bit` gets a CPU's weights in pieces, with the same result.

    In one piece it has up to four float32 copies of a weight at a time (bitsandbytes 0.50): 16 bytes for what it stores
    in half a byte, so that the largest matrix of a model can need more memory than the tenth that loading may take.
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.bitsandbytes.quantize_4bit.default and args[0].device.type == "cpu":
            return _in_pieces(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def in_pieces(bits: int, device: str) -> contextlib.AbstractContextManager:
    """`QuantizeInPieces` where weights are quantized to 4 bits on a CPU; elsewhere a context that changes nothing."""
    return QuantizeInPieces() if bits == 4 and device == "cpu" else contextlib.nullcontext()


def _in_pieces(
    weight: torch.Tensor, blocksize: int, quant_type: str, quant_storage: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """The operator's result, packed weights [bytes / item size, 1] and a scale a block, from pieces of whole blocks."""
    pieces = weight.reshape(-1).split(PIECE)
    results = [torch.ops.bitsandbytes.quantize_4bit(piece, blocksize, quant_type, quant_storage) for piece in pieces]
    packed, scales = zip(*results, strict=True)
    return torch.cat(packed), torch.cat(scales)
