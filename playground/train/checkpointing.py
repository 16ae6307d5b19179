"""The dial of memory against speed, turned on a model's repeated layers.

Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174) keeps a layer's input alone and computes the layer again in
the backward pass: a layer's activations less, a forward pass of that layer more. `Dial` says for which layers:

off      none: fastest, and everything is kept
n        every n-th layer (n a number from 2 on): 1/n of the extra work, 1/n of the saving
all      every layer: about a third slower
offload  every layer, and what is kept of it waits in main memory: slowest, and leanest
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from playground import catalog


@dataclass(frozen=True)
class CheckpointPolicy:
    """Which layers are computed twice, and how many tokens a micro-batch holds at most (0: no limit)."""

    checkpointing: str = "off"
    tokens: int = 0

    def recomputes(self, layer: int) -> bool:
        """Whether layer 0, 1, … is computed again in the backward pass."""
        if self.checkpointing in ("all", "offload"):
            return True
        return self.checkpointing != "off" and layer % int(self.checkpointing) == 0


class CheckpointedLayers:
    """A model's repeated layers. `set` may be called again at any time between two micro-batches; `restore` ends it."""

    def __init__(self, model: nn.Module):
        self.all = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        self._random = uses_random_dropout(model)

    def set(self, policy: CheckpointPolicy, compiled: bool = False) -> None:
        """Turn the dial; `compiled`: layers are compiled, once for all layers of a kind and all lengths of a batch.

        Up to the first layer that learns, no gradient comes in: those stay as they are, for they would be compiled anew.
        """
        self.restore()
        first = next((n for n, layer in enumerate(self.all) if any(p.requires_grad for p in layer.parameters())), 0)
        for number, layer in enumerate(self.all):
            run = layer.forward
            again = policy.recomputes(number)
            if compiled and number > first:  # the compiler itself computes again, and only what the gradients need
                inside = again and policy.checkpointing != "offload"
                run, again = (
                    functools.partial(_compiled(type(layer), inside, self._random), layer),
                    again and not inside,
                )
            if again:
                run = functools.partial(_offloaded if policy.checkpointing == "offload" else _again, run, self._random)
            if run != layer.forward:
                layer.forward = run

    def restore(self) -> None:
        for layer in self.all:
            layer.__dict__.pop("forward", None)


_HOW = {
    "use_reentrant": False,
    "determinism_check": "none",
}  # tests show that both runs are the same; checking each time costs


def uses_random_dropout(model: nn.Module) -> bool:
    """Whether the model drops anything at random in training: then a layer computed again has to draw the same."""
    config = next((m.config.get_text_config() for m in model.modules() if hasattr(m, "config")), None)
    rates = (
        [value for name, value in vars(config).items() if "drop" in name and isinstance(value, float)] if config else []
    )
    return any(rates) or any(m.p > 0 for m in model.modules() if isinstance(m, nn.Dropout))


@functools.cache
def _compiled(kind: type, again: bool, random: bool) -> Callable:
    def checkpointed(layer, hidden, *args, **kwargs):
        return checkpoint(
            functools.partial(kind.forward, layer, **kwargs), hidden, *args, **_HOW, preserve_rng_state=random
        )

    os.environ.setdefault(
        "TORCHINDUCTOR_CACHE_DIR", str(catalog.cache_folder() / "compiled")
    )  # a second run takes it from there
    return torch.compile(checkpointed if again else kind.forward, dynamic=True)


def _again(run: Callable, random: bool, hidden: torch.Tensor, *args, **kwargs):
    if not torch.is_grad_enabled():
        return run(hidden, *args, **kwargs)
    return checkpoint(functools.partial(run, **kwargs), hidden, *args, **_HOW, preserve_rng_state=random)


def _offloaded(run: Callable, random: bool, hidden: torch.Tensor, *args, **kwargs):
    """Like `_again`, but the layer's input is copied to main memory and fetched back to be computed on.

    The second run of a checkpoint only makes the tensors that the first one didn't keep, so any copy of the input will do.
    """
    if not torch.is_grad_enabled() or hidden.device.type == "cpu":
        return _again(run, random, hidden, *args, **kwargs)
    parked = _parked(hidden.detach())
    kept, learns = [hidden], hidden.requires_grad

    def once_or_again(_, *more):
        now = kept.pop() if kept else parked().requires_grad_(learns)
        return run(now, *more, **kwargs)

    return checkpoint(once_or_again, None, *args, **_HOW, preserve_rng_state=random)


def _parked(hidden: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A copy in main memory; called, it gives back one on the device."""
    if hidden.is_meta:
        shape, dtype = hidden.shape, hidden.dtype
        return lambda: torch.empty(shape, dtype=dtype, device="meta")
    device = hidden.device
    copy = torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=True).copy_(hidden, non_blocking=True)
    return lambda: copy.to(device, non_blocking=True)
