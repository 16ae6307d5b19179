"""A model computes as usual, but leaner: its linear layers, its rotary embedding and its norms by ways of our own.

Each is taken only where it gives what the model's own way gives; everything is as before when the context ends.
"""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from playground.train.linear import patch_linear
from playground.train.rotary import patch_rotary


@contextlib.contextmanager
def patch_modules(model: nn.Module, base: nn.Module) -> Iterator[None]:
    """Within it, `model` (what is trained) and `base`, the language model in it, compute the lean way."""
    with patch_linear(model), patch_rotary(base), patch_norms(base):
        yield


class _LeanNorm:
    """Root mean square norm (Zhang & Sennrich 2019, arXiv 1910.07467) in one kernel, which keeps its input alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if torch.compiler.is_compiling() else _one_kernel(self, x)


@contextlib.contextmanager
def patch_norms(model: nn.Module) -> Iterator[None]:
    """Within it, RMS norms on CUDA take torch's own kernel, where a trial on each class of them gives the same."""
    norms = [
        m
        for m in model.modules()
        if type(m).__name__.endswith("RMSNorm")
        and _epsilon(m) is not None
        and (m.weight.is_cuda or getattr(model, "stands_for", "") == "cuda")
    ]
    fit = {kind: _same(next(m for m in norms if type(m) is kind)) for kind in {type(m) for m in norms}}
    swapped = {m: type(m) for m in norms if fit[type(m)]}
    lean_kinds = {kind: type(f"Lean{kind.__name__}", (_LeanNorm, kind), {}) for kind in set(swapped.values())}
    try:
        for module, kind in swapped.items():
            module.__class__ = lean_kinds[kind]
        yield
    finally:
        for module, kind in swapped.items():
            module.__class__ = kind


class _Shape(torch.autograd.Function):
    """The kernel's shapes: it keeps its input and a number a token."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx, upstream):
        return torch.empty_like(upstream)


def _one_kernel(norm: nn.Module, x: Tensor) -> Tensor:
    if x.is_meta:  # where functional.rms_norm would take many steps
        return _Shape.apply(x)
    return functional.rms_norm(x, (x.shape[-1],), norm.weight, _epsilon(norm))


def _epsilon(norm: nn.Module) -> float | None:
    return getattr(norm, "variance_epsilon", getattr(norm, "eps", None))


def _same(norm: nn.Module) -> bool:
    if norm.weight.is_meta:
        norm = copy.deepcopy(norm).to_empty(device="cpu").float()
        nn.init.normal_(norm.weight)
    x = torch.linspace(-2, 3, 4 * norm.weight.shape[0], device=norm.weight.device, dtype=norm.weight.dtype).view(4, -1)
    with torch.no_grad():
        return torch.allclose(_one_kernel(norm, x), norm(x), rtol=4 * torch.finfo(x.dtype).eps, atol=1e-6)
