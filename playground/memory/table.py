"""What no trace can see, each with where it is known from: what kernels take by themselves, and CUDA's own share.

Where a figure was measured, that was on an H100 with torch 2.11 (tests/gpu/calibrate.py), apart from the runs that
predictions are checked against.
"""

from collections.abc import Iterator

import torch

CONTEXT = 552_402_944  # bytes on the card once CUDA has begun and nothing is allocated (measured)
LIBRARIES = 246_000_000  # and what its libraries load until a first training step is over (measured)
WORKSPACE = 32 * 2**20  # cuBLAS's, for each thread that multiplies: torch's `:4096:8` on Hopper (aten/src/ATen/cuda/CublasHandlePool.cpp)


def taken_within(function, args: tuple, made) -> Iterator[int]:
    """Bytes that this operator takes on CUDA beside what it returns, and gives back before it ends."""
    name = function._schema.name
    if name in ("aten::_flash_attention_backward", "torch_attn::_varlen_attn_backward"):
        yield from _flash_backward(args[1])
    elif name == "aten::_scaled_dot_product_flash_attention_backward":
        yield from _flash_backward(args[1].transpose(1, 2))
    elif name == "bitsandbytes::int8_mixed_scaled_mm":
        yield 4 * made[0].numel()  # the product in int32, before scales (bitsandbytes/backends/default/ops.py)


def _flash_backward(query: torch.Tensor) -> Iterator[int]:
    """The query's gradient summed in float32, rows padded to 128 (flash_api.cpp, mha_varlen_bwd). query: (..., tokens, heads, size)"""
    tokens, heads, size = query.shape[-3:]
    rounded = 128 if size > 96 else 96 if size > 64 else 64
    rows = query.shape[0] if query.ndim == 4 else 1
    yield rows * (tokens + 128) * heads * max(rounded, size) * 4
