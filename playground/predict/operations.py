"""Count what an operator asks of a device: floating-point operations, bytes read and written, and its kind.

Bytes are those of a kernel that reads every input once and writes every output once; a dimension that is broadcast is
read once. A product of (m, k) and (k, n) takes 2 m n k operations, attention 4 for every pair of tokens and number of a
head (Dao 2023, arXiv 2307.08691), half of that where a token attends to earlier ones alone, and 2.5 times as many
backward; an element-wise operator takes one for every element. Kinds are measured one by one in calibration.py.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from playground import compat

NARROW = 32  # rows or columns up to which a product is limited by memory instead of multiplications
MAX_GEMV_ROWS = 8  # rows up to which 4-bit weights are multiplied as they are (memory/constants.py)
BACKWARD_ATTENTION = 2.5  # five products instead of two

PRODUCTS = {"mm", "bmm", "addmm", "addmm_", "baddbmm", "baddbmm_"}
GATHERS = {"embedding", "index", "index_select", "gather"}  # read as much as they write, not the whole table
SLOW = {  # functions that take a processor several instructions a number
    *("exp", "exp_", "log", "sin", "cos", "tanh", "tanh_backward", "sigmoid", "silu", "silu_", "silu_backward"),
    *("sigmoid_backward", "gelu", "gelu_backward", "pow", "rsqrt", "softplus", "erf", "logsumexp"),
    *("_softmax", "_log_softmax", "_safe_softmax", "_softmax_backward_data", "_log_softmax_backward_data"),
    *("native_dropout", "bernoulli_", "native_layer_norm", "native_layer_norm_backward"),
}
ALLOCATES = {  # and writes nothing
    *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "lift_fresh", "detach"),
}


class Work(NamedTuple):
    """What one call of an operator takes.

    kind: "product", "narrow_m", "narrow_n" or "narrow_k" (the product's narrow dimension), also with "_t" (its first
    matrix is transposed), "attention", "elementwise",
    "slow" (element-wise, with functions such as exp), "dequantize", each with ":" and the type of numbers; or "view",
    which reaches no device. operations: multiplications and additions, or elements. bytes: read and written.
    """

    kind: str
    operations: float = 0
    bytes: float = 0


VIEW = (Work("view"),)


@functools.cache
def is_view(function: Any) -> bool:
    """Whether an operator only makes another view of a tensor, or allocates one without writing to it."""
    if compat.operator_name(function).rpartition("::")[2] in ALLOCATES:
        return True
    arguments, results = compat.operator_arguments(function)
    if any(one.alias_info and one.alias_info.is_write for one in arguments):
        return torch.Tag.inplace_view in function.tags
    return any(one.alias_info for one in (*arguments, *results)) or function.__name__.startswith("_unsafe_view")


def work_of(function: Any, args: tuple, kwargs: dict, result: Any) -> tuple[Work, ...]:
    """What a call takes; several where one operator runs kernels of several kinds."""
    if is_view(function):
        return VIEW
    namespace, _, name = compat.operator_name(function).partition("::")
    if name in PRODUCTS:
        return (_product(args[-2:] if "add" in name else args, args, result),)
    if "attention" in name or "attn" in name:
        return (_attention(name, args, result),)
    if namespace == "bitsandbytes":
        return tuple(_of_bitsandbytes(name, args, result))
    written, elements = _sizes(result)
    read, most = (written, elements) if name in GATHERS else _sizes((args, kwargs) if kwargs else args)
    if name == "convolution":
        kernel = args[1]
        return (Work(f"product:{_dtype(result)}", 2 * result.numel() * kernel[0].numel(), read + written),)
    kind = "slow" if name in SLOW else "elementwise"
    return (Work(f"{kind}:{_dtype(result)}", max(elements, most), read + written),)


def matrix_product(m: int, n: int, k: int, dtype: str, moved: float, count: int = 1, transposed: bool = False) -> Work:
    """`count` products of (m, k) and (k, n). transposed: the first one's columns lie together in memory."""
    operations = 2 * m * n * k * count
    smallest = min(m, n, k)
    if smallest > NARROW:
        return Work(f"product:{dtype}", operations, moved)
    narrow = "k" if smallest == k else "n" if smallest == n else "m"
    return Work(f"narrow_{narrow}{'_t' if transposed else ''}:{dtype}", operations, moved)


def _product(factors: tuple, args: tuple, result: Any) -> Work:
    left, right = factors[:2]
    m, k, n = left.shape[-2], left.shape[-1], right.shape[-1]
    count = left.shape[0] if left.ndim == 3 else 1
    transposed = k > 1 and left.stride(-1) != 1
    return matrix_product(m, n, k, _dtype(left), _bytes(args) + _bytes(result), count, transposed)


def _attention(name: str, args: tuple, result: Any) -> Work:
    """shapes: (rows, heads, tokens, size), or, of packed rows, (tokens, heads, size)."""
    backward = "backward" in name
    tensors = [one for one in args if isinstance(one, torch.Tensor) and one.is_floating_point()]
    query, key = tensors[1:3] if backward else tensors[:2]
    if (
        query.ndim == 3
    ):  # the kernel gets the positions where rows begin and end; as if lengths were spread evenly about their mean
        rows = next(one.shape[0] for one in args if isinstance(one, torch.Tensor) and not one.is_floating_point()) - 1
        longest = max([n for n in args if type(n) is int], default=query.shape[0])
        mean = query.shape[0] / max(1, rows)
        pairs = query.shape[0] * (mean + (longest - mean) ** 2 / (3 * mean)) / 2
        heads, size = query.shape[1:]
    else:
        axis = 1 if name.startswith(("_flash", "_efficient")) else 2
        pairs, size = query.shape[0] * query.shape[axis] * key.shape[axis], query.shape[-1]
        heads = query.shape[3 - axis]
        if query.shape[axis] > 1 and any(one is True for one in args):
            pairs /= 2
    operations = 4 * pairs * heads * size * (BACKWARD_ATTENTION if backward else 1)
    return Work(f"attention:{_dtype(query)}", operations, _bytes(args) + _bytes(result))


def _of_bitsandbytes(name: str, args: tuple, result: Any) -> Iterator[Work]:
    moved = _bytes(args) + _bytes(result)
    if name == "gemm_4bit":  # (x, packed weight, shape, absmax, block size, …)
        x, (n, k) = args[0], args[2][:2]
        rows, dtype = x.numel() // x.shape[-1], _dtype(x)
        if rows <= MAX_GEMV_ROWS:
            yield Work(f"gemv_4bit:{dtype}", 2 * rows * n * k, moved)
            return
        dense = n * k * x.element_size()
        yield Work(f"dequantize:{dtype}", n * k, _bytes(args[1]) + dense)
        yield matrix_product(rows, n, k, dtype, _bytes(x) + dense + _bytes(result))
    elif name in ("int8_mixed_scaled_mm", "int8_scaled_mm", "int8_linear_matmul"):
        product = result[0] if isinstance(result, tuple) else result
        rows, n = product.numel() // product.shape[-1], product.shape[-1]
        yield Work("product:int8", 2 * rows * n * args[0].shape[-1], moved)
    elif name == "dequantize_4bit":
        yield Work(f"dequantize:{_dtype(result)}", result.numel(), moved)
    else:
        yield Work(f"elementwise:{_dtype(result)}", _sizes((args, result))[1], moved)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _elements(tensor: torch.Tensor) -> int:
    """Numbers that a tensor has in memory: one that is broadcast counts once."""
    count = tensor.numel()
    if count and 0 in (strides := tensor.stride()):
        count = math.prod(size for size, stride in zip(tensor.shape, strides) if stride)
    return count


def _sizes(value: Any) -> tuple[int, int]:
    """Bytes of all tensors in a value, and numbers of the largest."""
    size = largest = 0
    for tensor in _tensors(value):
        size += _elements(tensor) * tensor.element_size()
        largest = max(largest, tensor.numel())
    return size, largest


def _bytes(value: Any) -> int:
    return _sizes(value)[0]


def _dtype(value: Any) -> str:
    """The type of a tensor, or of the first of several."""
    tensor = next(_tensors(value), None)
    return "none" if tensor is None else str(tensor.dtype).removeprefix("torch.")
