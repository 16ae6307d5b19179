"""The card that is pretended. On CUDA, torch's allocator is really held to it: memory runs out where it would there.

On a CPU nothing is held to it; the predictions of a run are compared with it.
"""

import contextlib
from collections.abc import Iterator

import psutil
import torch

from playground.errors import problem
from playground.memory import constants, meter
from playground.settings import Load

MAX_RUNTIME_BYTES = constants.cuda_runtime_bytes(
    "tune", 8
)  # bytes of a card that never come to torch's allocator, at most


def capacity(load: Load, device: str) -> int:
    """Bytes of the memory that a run has: the card's, or what is pretended of it; main memory on a CPU."""
    whole = meter.hardware(device)["capacity"]
    return min(int(load.simulate_gpu_gib * 2**30) or whole, whole) if device == "cuda" else whole


def available_memory(load: Load, device: str) -> int:
    """Bytes of it that this process can have in all, beside what others have taken now."""
    if device == "cpu":
        return psutil.virtual_memory().available + psutil.Process().memory_info().rss
    unused, _ = torch.cuda.mem_get_info()
    return min(capacity(load, device), unused + torch.cuda.memory_reserved() + MAX_RUNTIME_BYTES)


@contextlib.contextmanager
def limit_cuda_memory(load: Load, device: str) -> Iterator[None]:
    """Within it, no more can be allocated than the pretended card would hold beside CUDA's own share.

    Raises PlaygroundError for a card that CUDA alone would fill.
    """
    if device == "cpu" or not load.simulate_gpu_gib:
        yield
        return
    most, whole = capacity(load, device), meter.hardware(device)["capacity"]
    if most <= MAX_RUNTIME_BYTES:
        raise problem("error.card", card_bytes=most, runtime_bytes=MAX_RUNTIME_BYTES)
    torch.cuda.empty_cache()  # what is kept from before isn't counted, and would be used
    torch.cuda.set_per_process_memory_fraction((most - MAX_RUNTIME_BYTES) / whole)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
