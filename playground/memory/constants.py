"""What no trace can see, each with where it is known from: what kernels take by themselves, and CUDA's own share.

Where a figure was measured, that was on an H100 with torch 2.11 (tests/gpu/calibrate.py), apart from the runs that
predictions are checked against.
"""

from collections.abc import Iterator

import torch

CUDA_CONTEXT = 552_402_944  # bytes on the card once CUDA has begun and nothing is allocated (measured)
CUDA_LIBRARIES = {
    "load": 96_534_528,
    "chat": 176_226_304,
    "tune": 243_334_528,
}  # and what is loaded for its first kernels, an answer, a step (measured)
INT8_LIBRARIES = 67_108_864  # and for an answer or a step of LLM.int8() (measured)
# main memory, measured on a CPU with torch 2.13 and a toy of 0.3 MB, the program itself and nothing it was checked against
PROGRAM_RSS = 404 * 2**20  # bytes that this program takes with its libraries once any model is loaded
CPU_KERNELS = {
    torch.float32: 19 * 2**20,
    torch.float16: 74 * 2**20,
    torch.bfloat16: 74 * 2**20,
}  # and for its first steps
TOKENIZER_BYTES_PER_TOKEN = (
    300  # and for each token of a vocabulary (byte-level BPE of 50,000 to 200,000 made-up tokens: 292 to 327)
)
CUBLAS_WORKSPACE = (
    32 * 2**20
)  # cuBLAS's, for each thread that multiplies: torch's `:4096:8` on Hopper (aten/src/ATen/cuda/CublasHandlePool.cpp)
MAX_GEMV_ROWS = 8  # rows of a product up to which 4-bit weights never are made dense; above, that depends on card and shape (bitsandbytes/backends/cuda/ops.py)


def cuda_runtime_bytes(phase: str, bits: int) -> int:
    """Bytes of the card that never come to torch's allocator, once `phase` is over."""
    return CUDA_CONTEXT + CUDA_LIBRARIES[phase] + (INT8_LIBRARIES if bits == 8 and phase != "load" else 0)


def kernel_temporaries(function, args: tuple, made) -> Iterator[int]:
    """Bytes that this operator takes on CUDA beside what it returns, and gives back before it ends."""
    name = function._schema.name
    if name in ("aten::_flash_attention_backward", "torch_attn::_varlen_attn_backward"):
        yield from _flash_backward(args[1])
    elif name == "aten::_scaled_dot_product_flash_attention_backward":
        yield from _flash_backward(args[1].transpose(1, 2))
    elif name == "aten::_safe_softmax":
        yield args[0].numel()  # a mask of what is masked (aten/src/ATen/native/transformers/attention.cpp)
    elif name == "aten::_softmax_backward_data":
        yield args[0].nbytes  # gradient times output (aten/src/ATen/native/cuda/SoftMax.cu)
    elif name == "bitsandbytes::int8_mixed_scaled_mm":
        product = (
            made[0].numel()
        )  # in int32 before scales, then in float16 (bitsandbytes/backends/default/ops.py, backends/cuda/ops.py)
        yield 4 * product + (2 * product if made[0].dtype != torch.float16 else 0)
    elif name == "bitsandbytes::gemm_4bit" and args[0].numel() // args[0].shape[-1] > MAX_GEMV_ROWS:
        size = args[2][0] * args[2][1]  # the weight made dense, and its scales (backends/default/ops.py)
        yield size * args[0].element_size() + 4 * size // args[4]


def _flash_backward(query: torch.Tensor) -> Iterator[int]:
    """The query's gradient summed in float32, rows padded to 128 (flash_api.cpp, mha_varlen_bwd). query: (..., tokens, heads, size)"""
    tokens, heads, size = query.shape[-3:]
    rounded = 128 if size > 96 else 96 if size > 64 else 64
    rows = query.shape[0] if query.ndim == 4 else 1
    yield rows * (tokens + 128) * heads * max(rounded, size) * 4
