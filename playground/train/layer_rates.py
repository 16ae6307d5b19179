"""How long a layer's work takes compared with what surrounds it: launching its kernels, copying its weights.

Both are counted in tokens: so many as the layer computes in that time.
"""

from torch import nn

from playground.speed.plan_rates import COPY_RATE, LAUNCH_SECONDS, RATE_REACHED, matmul_rate
from playground.train.batching import Batcher
from playground.train.checkpointing import CheckpointedLayers


def launch_tokens(batcher: Batcher, layers: CheckpointedLayers) -> float:
    """Tokens whose work in a layer takes as long as launching the layer's kernels; 0 on a CPU, which launches none."""
    device = getattr(batcher.model, "stands_for", batcher.device)
    if device != "cuda":
        return 0.0
    return LAUNCH_SECONDS * _tokens_per_second(batcher, layers)


def linear_weights(module: nn.Module) -> int:
    """How many weights a linear layer multiplies with, however they are stored; 0 for any other module."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    return module.weight.numel() if type(module).__name__ == "Conv1D" else 0  # type: ignore[operator]


def copy_tokens(batcher: Batcher, layers: CheckpointedLayers, copied_bytes: int, count: int) -> float:
    """Tokens whose work in a layer takes as long as copying what one of `count` layers has to, on average."""
    device = getattr(batcher.model, "stands_for", batcher.device)
    if device != "cuda" or not copied_bytes:
        return 0.0
    return copied_bytes / count / COPY_RATE * _tokens_per_second(batcher, layers)


def _tokens_per_second(batcher: Batcher, layers: CheckpointedLayers) -> float:
    """How many tokens the largest layer's products take a second for, forward."""
    weights = max(sum(linear_weights(module) for module in layer.modules()) for layer in layers.all)
    operations = 2 * weights  # for a token: a multiplication and an addition each
    return RATE_REACHED * matmul_rate(batcher.device, batcher.model.dtype) / operations
