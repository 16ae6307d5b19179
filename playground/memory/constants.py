"""Measured constants for memory that a trace cannot see, with sources: kernels' temporaries and CUDA's own share.

Bytes unless said otherwise. CUDA figures were measured on an H100 with torch 2.11 (tests/gpu/calibrate.py), in other
runs than those that predictions are checked against. Figures of main memory were measured on a CPU with torch 2.13 and
a toy model of 0.3 MB, which no prediction is checked against either.
"""

from collections.abc import Iterator
from typing import Any

import torch

from playground import compat
from playground.settings import Load, is_int8

ALIGNMENT = 512  # torch's caching allocator hands out multiples of it (c10/cuda/CUDACachingAllocator.cpp)

# On the GPU once CUDA is initialized and nothing is allocated (measured).
CUDA_CONTEXT = 552_402_944

# On top of it, libraries loaded for the first kernels, for an answer and for a training step (measured).
CUDA_LIBRARIES = {"load": 96_534_528, "chat": 176_226_304, "tune": 243_334_528}

# On top of that, for an answer or a training step with LLM.int8() (measured).
INT8_LIBRARIES = 67_108_864

# cuBLAS's workspace for each thread that multiplies matrices: torch's default `:4096:8` on Hopper
# (aten/src/ATen/cuda/CublasHandlePool.cpp).
CUBLAS_WORKSPACE = 32 * 2**20

# Resident memory of this program with its libraries once a model is loaded, without the model (measured).
PROGRAM_RSS = 375 * 2**20

# Resident memory of a process that trains on a GPU: the program, and what CUDA and torch keep in main memory. An H100,
# torch 2.11, OpenCALM-7B's shape: 1.82 to 1.84 GiB at 4, 8 and 16 bits (assets/recordings/calm-7b-lora-*.jsonl).
CUDA_PROGRAM_RSS = 1_975_000_000

# On top of it, once the first answer or training step ran, by compute dtype (measured).
CPU_KERNELS = {torch.float32: 19 * 2**20, torch.float16: 74 * 2**20, torch.bfloat16: 74 * 2**20}

# On top of that, once the first matrix was decomposed: LAPACK's code (measured: 11 MiB).
CPU_LAPACK = 12 * 2**20

# Main memory of a tokenizer, bytes per token of its vocabulary (measured: 292 to 327 with byte-level BPE of 50,000 to
# 200,000 made-up tokens).
TOKENIZER_BYTES_PER_TOKEN = 300

# Rows of a product up to which 4-bit weights are never dequantized as a whole. Above, that depends on GPU and shape
# (bitsandbytes/backends/cuda/ops.py).
MAX_GEMV_ROWS = 8


# What NCCL takes of each GPU where several processes train together. Two H200s, torch 2.11: 0.821 to 0.832 GiB in nine
# fine-tunes (tests/bench/results/several_shapes.json).
NCCL = 882_900_992


def cuda_runtime_bytes(phase: str, load: Load, processes: int = 1) -> int:
    """Bytes of the GPU that torch's allocator never gets, once `phase` ("load", "chat" or "tune") is over."""
    libraries = CUDA_LIBRARIES[phase] + (INT8_LIBRARIES if is_int8(load) and phase != "load" else 0)
    return CUDA_CONTEXT + libraries + (NCCL if processes > 1 else 0)


def kernel_temporaries(function: Any, args: tuple, result: Any) -> Iterator[int]:
    """Bytes of each block that an operator's CUDA kernel allocates besides its result, and frees before it returns."""
    name = compat.operator_name(function)
    if name in ("aten::_flash_attention_backward", "torch_attn::_varlen_attn_backward"):
        yield _flash_backward_bytes(args[1])
    elif name == "aten::_scaled_dot_product_flash_attention_backward":
        yield _flash_backward_bytes(args[1].transpose(1, 2))
    elif name == "aten::_safe_softmax":  # which values are masked (aten/src/ATen/native/transformers/attention.cpp)
        yield args[0].numel()
    elif name == "aten::_softmax_backward_data":  # gradient times output (aten/src/ATen/native/cuda/SoftMax.cu)
        yield args[0].nbytes
    elif name == "bitsandbytes::int8_mixed_scaled_mm":
        # The product in int32 before scales, then in float16 (bitsandbytes/backends/default/ops.py, cuda/ops.py).
        product = result[0].numel()
        yield 4 * product + (2 * product if result[0].dtype != torch.float16 else 0)
    elif name == "bitsandbytes::gemm_4bit" and args[0].numel() // args[0].shape[-1] > MAX_GEMV_ROWS:
        # The dequantized weight, and its scales in float32 (bitsandbytes/backends/default/ops.py).
        elements, block_size = args[2][0] * args[2][1], args[4]
        yield elements * args[0].element_size() + 4 * elements // block_size


def _flash_backward_bytes(query: torch.Tensor) -> int:
    """The query's gradient, summed in float32, with rows padded to 128 (flash_api.cpp, mha_varlen_bwd).

    query: (..., tokens, heads, size).
    """
    tokens, heads, size = query.shape[-3:]
    rounded = 128 if size > 96 else 96 if size > 64 else 64
    rows = query.shape[0] if query.ndim == 4 else 1
    return rows * (tokens + 128) * heads * max(rounded, size) * 4


def aligned(size: int) -> int:
    """The bytes that a tensor of this size takes of a GPU, and in the blocks that streamed layers' weights lie in."""
    return -(-size // ALIGNMENT) * ALIGNMENT
