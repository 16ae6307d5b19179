"""RMS norms on CUDA by torch's own kernel, which saves its input alone for the backward pass.

Root mean square norm: Zhang & Sennrich 2019, arXiv 1910.07467. Models write it as several operations, of which autograd
keeps every result.
"""

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from playground import compat


def efficient_norms(model: nn.Module) -> dict[nn.Module, type]:
    """The RMS norms of the model on CUDA, each with the class to swap in.

    Only of classes for which a trial gives the same result. Compiled code keeps the model's own norm.
    """
    norms: list[Any] = [
        module
        for module in model.modules()
        if type(module).__name__.endswith("RMSNorm")
        and _epsilon(module) is not None
        and isinstance(getattr(module, "weight", None), Tensor)  # some have none, and only normalize
        and (module.weight.is_cuda or getattr(model, "stands_for", "") == "cuda")
    ]
    classes: dict[Any, Any] = {type(norm): norm for norm in reversed(norms)}  # each with its first norm
    replacements = {kind: _efficient_class(kind) for kind, norm in classes.items() if _gives_the_same(norm)}
    return {norm: replacements[type(norm)] for norm in norms if type(norm) in replacements}


class _EfficientNorm:
    """The forward pass of the replacement classes. Each is also a subclass of the class that it replaces."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return super().forward(x) if torch.compiler.is_compiling() else _rms_norm(self, x)  # type: ignore[misc]


@cache
def _efficient_class(kind: Any) -> type:
    return type(f"Efficient{kind.__name__}", (_EfficientNorm, kind), {})


class _RmsNormShapes(torch.autograd.Function):
    """What the kernel allocates, on the meta device: it saves its input and one number a token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x, x.new_empty(x.shape[:-1], dtype=torch.float32))
        compat.count_meta_kernel(_kind(x), x.numel(), 2 * x.nbytes)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        compat.count_meta_kernel(_kind(upstream), 2 * upstream.numel(), 3 * upstream.nbytes)
        return torch.empty_like(upstream)


def _kind(x: Tensor) -> str:
    return f"elementwise:{str(x.dtype).removeprefix('torch.')}"


def _rms_norm(norm: Any, x: Tensor) -> Tensor:
    if x.is_meta:  # where functional.rms_norm is many operations instead of the kernel
        return _RmsNormShapes.apply(x)
    return functional.rms_norm(x, (x.shape[-1],), norm.weight, _epsilon(norm))


def _epsilon(norm: Any) -> float | None:
    return getattr(norm, "variance_epsilon", getattr(norm, "eps", None))


def _gives_the_same(norm: Any) -> bool:
    """Whether the kernel computes what this norm computes, tried on a few numbers."""
    if norm.weight.is_meta:
        norm = copy.deepcopy(norm).to_empty(device="cpu").float()
        nn.init.normal_(norm.weight)
    weight = norm.weight
    x = torch.linspace(-2, 3, 4 * weight.shape[0], device=weight.device, dtype=weight.dtype).view(4, -1)
    with torch.no_grad():
        return torch.allclose(_rms_norm(norm, x), norm(x), rtol=4 * torch.finfo(x.dtype).eps, atol=1e-6)
