"""Cap CUDA memory to simulate a smaller GPU: torch's allocator runs out of memory where it would on that GPU.

On a CPU nothing is capped; there, a run's predictions are compared with the simulated GPU.
"""

import contextlib
from collections.abc import Iterator

import torch

from playground.errors import problem
from playground.memory import constants, meter
from playground.memory.main_memory import available_main_memory
from playground.settings import Load

# The most bytes of a GPU that torch's allocator never gets, over all phases and bit widths.
MAX_RUNTIME_BYTES = constants.cuda_runtime_bytes("tune", Load(bits=8))


def runtime_limit(processes: int = 1) -> int:
    """The most bytes of a GPU that torch's allocator never gets. processes: how many train together, each on a GPU."""
    return MAX_RUNTIME_BYTES + (constants.NCCL if processes > 1 else 0)


def capacity(load: Load, device: str) -> int:
    """Bytes of memory that a run is given: of the GPU or of the simulated one; of main memory on a CPU."""
    whole = meter.hardware(device)["capacity"]
    return min(int(load.simulate_gpu_gib * 2**30) or whole, whole) if device == "cuda" else whole


def available_memory(load: Load, device: str) -> int:
    """Bytes of the capacity that this process can use in all: what it uses now, and what no other process uses."""
    if device == "cpu":
        return available_main_memory()
    unused, _ = torch.cuda.mem_get_info()
    return min(capacity(load, device), unused + torch.cuda.memory_reserved() + MAX_RUNTIME_BYTES)


@contextlib.contextmanager
def limit_cuda_memory(load: Load, device: str, processes: int = 1) -> Iterator[None]:
    """A context in which torch can allocate no more than the simulated GPU has, less CUDA's own share, and NCCL's.

    processes: how many train together, each on a GPU. Raises PlaygroundError for a simulated GPU that CUDA alone would
    fill.
    """
    if device == "cpu" or not load.simulate_gpu_gib:
        yield
        return
    simulated, whole = capacity(load, device), meter.hardware(device)["capacity"]
    runtime = runtime_limit(processes)
    if simulated <= runtime:
        raise problem("error.card", card_bytes=simulated, runtime_bytes=runtime)
    torch.cuda.empty_cache()  # blocks cached earlier could be reused without being counted
    torch.cuda.set_per_process_memory_fraction((simulated - runtime) / whole)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
