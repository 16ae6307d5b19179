"""Rotary position embedding (Su and others, arXiv 2104.09864) in a third of the memory traffic of the usual code.

A vector's two halves are rotated by an angle: (a, b) → (a cos - b sin, b cos + a sin). Models write that as x cos +
rotate_half(x) sin, which copies x three times before it is added up. The gradient is rotated back by the same angle.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

FUNCTION = "apply_rotary_pos_emb"  # its name in transformers' model files


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        cos, sin = ctx.saved_tensors
        return _rotate(upstream, cos, sin, -1), None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """x: (rows, heads, tokens, size); cos, sin: (rows, 1, tokens, size), their two halves equal; direction: 1 or -1.

    Computed in the wider type of the two, as in OLMo's float32 angles; the result has the type of x.
    """
    rotated, half = x * cos, x.shape[-1] // 2
    wide = x.to(rotated.dtype)
    rotated[..., :half].addcmul_(wide[..., half:], sin[..., :half], value=-direction)
    rotated[..., half:].addcmul_(wide[..., :half], sin[..., half:], value=direction)
    return rotated.to(x.dtype)


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Rotate query and key by their tokens' angles.

    query, key: (rows, heads, tokens, size); cos, sin: (rows, tokens, size).
    """
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _Rotation.apply(query, cos, sin), _Rotation.apply(key, cos, sin)


@contextlib.contextmanager
def patch_rotary(model: nn.Module) -> Iterator[None]:
    """Replace the rotary embedding in the model's file by `rotate`, where a trial shows that both give the same.

    The trial is made in the model's own type, with angles of that type and of float32: families differ in theirs.
    Compiled code keeps the model's own, which the compiler fuses into one pass.
    """
    file = sys.modules[type(model).__module__]
    original = getattr(file, FUNCTION, None)
    dtype = getattr(model, "dtype", torch.float32)
    types = {angles for angles in (dtype, torch.float32) if original and _gives_the_same(original, dtype, angles)}
    if original is None or not types:
        yield
        return

    def replacement(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> tuple:
        is_proven = query.dtype == dtype and cos.dtype in types and cos.shape[-1] == query.shape[-1]
        return (rotate if is_proven and not torch.compiler.is_compiling() else original)(
            query, key, cos, sin, *args, **kwargs
        )

    setattr(file, FUNCTION, replacement)
    try:
        yield
    finally:
        setattr(file, FUNCTION, original)


def _gives_the_same(original: Callable, dtype: torch.dtype, angle_dtype: torch.dtype) -> bool:
    """Whether query and key of this type, rotated by angles of that type, are the same in both, types included."""
    draw = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, heads, 5, 8, generator=draw).to(dtype) for heads in (3, 1))
    angles = torch.randn(2, 5, 4, generator=draw).repeat(1, 1, 2)
    cos, sin = angles.cos().to(angle_dtype), angles.sin().to(angle_dtype)
    try:
        expected = original(query, key, cos, sin)
    except (TypeError, ValueError, RuntimeError, AttributeError):  # another signature or another layout
        return False
    close = 1e-6 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps  # vectors of up to about 4
    pairs = zip(rotate(query, key, cos, sin), expected)
    return all(a.dtype == b.dtype and torch.allclose(a, b, rtol=close, atol=close) for a, b in pairs)
