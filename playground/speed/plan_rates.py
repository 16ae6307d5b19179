"""Rates that a training plan is chosen with: a large product's, measured in milliseconds, and assumed ones.

A plan compares ways to compute one model on one GPU, so it needs ratios, before anything has been calibrated.
"""

import functools
import time

import torch

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


@functools.cache
def matmul_rate(device: str, dtype: torch.dtype) -> float:
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
