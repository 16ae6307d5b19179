"""How long a layer's work takes compared with what surrounds it: launching its kernels, copying its weights.

Both are counted in tokens: so many as the layer computes in that time.
"""

import functools
import time

import torch
from torch import nn

from playground.train.batching import Batcher
from playground.train.checkpointing import CheckpointedLayers

# seconds to launch one pass through one layer with adapters, forward or backward; measured: 0.26 s for a micro-batch of
# 32 layers
LAUNCH_SECONDS = 3.5e-3
# share of the rate of one large product that a whole pass reaches: 53 to 61 % on an H100, compiled 58 to 67 %
# (tests/bench/README.md)
RATE_REACHED = 0.6
# floating-point operations a second where there is no card to measure: an H100's, in bfloat16
ASSUMED_RATE = 790e12
# bytes a second that are copied from page-locked main memory to a card: an H100 took at least so many without waiting
# for them (41 GiB/s, tests/bench/results/larger_gpu.json)
COPY_RATE = 44e9


def launch_tokens(batcher: Batcher, layers: CheckpointedLayers) -> float:
    """Tokens whose work in a layer takes as long as launching the layer's kernels; 0 on a CPU, which launches none."""
    device = getattr(batcher.model, "stands_for", batcher.device)
    if device != "cuda":
        return 0.0
    weights = max(sum(linear_weights(module) for module in layer.modules()) for layer in layers.all)
    operations = 2 * weights  # for a token: a multiplication and an addition each
    return LAUNCH_SECONDS * RATE_REACHED * _matmul_rate(batcher.device, batcher.model.dtype) / operations


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
    weights = max(sum(linear_weights(module) for module in layer.modules()) for layer in layers.all)
    seconds = copied_bytes / count / COPY_RATE
    return seconds * RATE_REACHED * _matmul_rate(batcher.device, batcher.model.dtype) / (2 * weights)


@functools.cache
def _matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of this card in a large product, measured once (some 5 ms)."""
    if device != "cuda":
        return ASSUMED_RATE
    size, seconds = 4096, []
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    for _ in range(4):
        torch.cuda.synchronize()
        start = time.perf_counter()
        matrix @ matrix
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
