"""Gradient checkpointing of a model's repeated layers: which are recomputed, compiled or offloaded.

Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174) keeps a layer's input alone and computes the layer again in
the backward pass. It saves a layer's activations and costs one more forward pass of that layer. `CheckpointPolicy` says
for which layers:

off      none: fastest, and everything is kept
n        every n-th layer (n a number from 2 on): 1/n of the extra work, 1/n of the saving
all      every layer: about a third slower
offload  every layer, and its kept input waits in main memory: slowest, and least memory
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from playground import catalog, compat
from playground.train.recompute import recompute_later


@dataclass(frozen=True)
class CheckpointPolicy:
    """Which layers are recomputed, and the most tokens of a micro-batch (0: no limit)."""

    checkpointing: str = "off"
    tokens: int = 0

    def recomputes(self, layer: int) -> bool:
        """Whether layer 0, 1, … is computed again in the backward pass."""
        if self.checkpointing in ("all", "offload"):
            return True
        return self.checkpointing != "off" and layer % int(self.checkpointing) == 0


class CheckpointedLayers:
    """A model's repeated layers (`all`) under a policy.

    `set` may be called again at any time between two micro-batches; `restore` gives every layer its own forward again.
    """

    def __init__(self, model: nn.Module):
        self.all = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        self._random = uses_random_numbers(model)

    @property
    def first_trainable(self) -> int:
        """Number of the first layer with something to train, or 0. No gradient reaches the layers before it."""
        return next((n for n, layer in enumerate(self.all) if any(p.requires_grad for p in layer.parameters())), 0)

    def set(self, policy: CheckpointPolicy, compiled: bool = False) -> None:
        """Apply a policy. compiled: also compile the layers, once for all layers of a class and all batch lengths.

        Layers up to the first trainable one aren't compiled: without a gradient for their input they would need a
        compilation by themselves.
        """
        self.restore()
        first = self.first_trainable
        for number, layer in enumerate(self.all):
            recompute, compile_it = policy.recomputes(number), compiled and number > first
            if recompute or compile_it:
                layer.forward = self._forward(layer, recompute, policy.checkpointing == "offload", compile_it)

    def restore(self) -> None:
        """Undo `set`."""
        for layer in self.all:
            layer.__dict__.pop("forward", None)

    def _forward(self, layer: nn.Module, recompute: bool, offload: bool, compile_it: bool) -> Callable:
        kind: Any = type(layer)
        if compile_it and recompute and not offload:  # the compiler recomputes, and only what the gradients need
            return functools.partial(_compiled(kind, True, self._random), layer)
        forward: Callable = layer.forward
        if compile_it:
            forward = functools.partial(_compiled(kind, False, self._random), layer)
        if not recompute:
            return forward
        return functools.partial(_recomputed_offloaded if offload else _recomputed, forward, self._random)


def uses_random_numbers(model: nn.Module) -> bool:
    """Whether the model draws any in training, for dropout or to jitter what a router of experts reads (PhiMoE): then a
    recomputed layer has to draw the same ones.
    """
    config: Any = next((m.config for m in model.modules() if hasattr(m, "config")), None)
    settings = vars(config.get_text_config()) if config else {}
    random = [value for name, value in settings.items() if "drop" in name or "jitter" in name]
    rates = [value for value in random if isinstance(value, float)]
    return any(rates) or any(m.p > 0 for m in model.modules() if isinstance(m, nn.Dropout))


def _checkpoint(function: Callable, random: bool, *args: Any) -> Any:
    """Keep nothing of a function but its arguments.

    By torch where random numbers have to be drawn again or the compiler looks for it, without its check that both runs
    agree: tests show that, and it costs time in every step.
    """
    if not random and not torch.compiler.is_compiling():
        return recompute_later(function, *args)
    return checkpoint(function, *args, use_reentrant=False, determinism_check="none", preserve_rng_state=random)


@functools.cache
def _compiled(kind: Any, recompute: bool, random: bool) -> Callable:
    """The forward of a class of layers, compiled; `recompute`: with checkpointing inside."""

    def checkpointed(layer: nn.Module, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return _checkpoint(functools.partial(kind.forward, layer, **kwargs), random, hidden, *args)

    # a second run takes compiled code from this folder
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(catalog.cache_folder() / "compiled"))
    return torch.compile(checkpointed if recompute else kind.forward, dynamic=True)


def _recomputed(forward: Callable, random: bool, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(hidden, *args, **kwargs)
    return _checkpoint(functools.partial(forward, **kwargs), random, hidden, *args)


def _recomputed_offloaded(forward: Callable, random: bool, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Like `_recomputed`, but the layer's input is copied to main memory, and back to the device to recompute.

    The second run of a checkpoint only makes the tensors that the first one didn't keep, so any copy of the input does.
    """
    if not torch.is_grad_enabled() or hidden.device.type == "cpu":
        return _recomputed(forward, random, hidden, *args, **kwargs)
    fetch = _offload(hidden.detach())
    first_input, requires_grad = [hidden], hidden.requires_grad

    def run(_: None, *more: Any) -> Any:
        is_first = bool(first_input)
        return forward(first_input.pop() if is_first else fetch().requires_grad_(requires_grad), *more, **kwargs)

    return _checkpoint(run, random, None, *args)


def _offload(hidden: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Copy a tensor to main memory; returns a function that copies it back to the device."""
    if hidden.is_meta:
        shape, dtype, size = hidden.shape, hidden.dtype, hidden.nbytes
        compat.count_meta_kernel("to_host", 0, size)

        def fetch() -> torch.Tensor:
            compat.count_meta_kernel("to_device", 0, size)
            return torch.empty(shape, dtype=dtype, device="meta")

        return fetch
    device = hidden.device
    copy = torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=True).copy_(hidden, non_blocking=True)
    return lambda: copy.to(device, non_blocking=True)
