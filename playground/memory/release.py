"""Return freed memory to the system, and close the holes that loading a model leaves in the GPU's memory."""

import contextlib
import ctypes
import gc
import sys
import time
from collections.abc import Iterator

import psutil
import torch
from torch import nn

from playground import compat
from playground.memory.ledger import tensors_by_part

MIN_FRAGMENTATION = 0.05  # of the reserved memory: below that, defragmenting isn't worth its time
LARGE_BLOCK = 2**16  # bytes
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt's parameters (malloc.h)


def release_memory() -> None:
    """Return freed memory to the system: torch's cache on CUDA, the C library's free lists on Linux."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        compat.clear_cublas_workspaces()
        torch.cuda.empty_cache()
    _call_glibc("malloc_trim", 0)


@contextlib.contextmanager
def mmap_large_blocks() -> Iterator[None]:
    """A context in which the C library maps each block above 64 KiB separately and returns it as soon as it is freed.

    Left alone, glibc raises that threshold as large blocks are freed and keeps them, so that a model which is quantized
    tensor by tensor leaves as much again. Afterwards the thresholds are set to the highest that glibc itself would
    choose (mallopt(3)): training is slower without.
    """
    _call_glibc("mallopt", M_MMAP_THRESHOLD, LARGE_BLOCK)
    try:
        yield
    finally:
        _call_glibc("mallopt", M_MMAP_THRESHOLD, 32 * 2**20)
        _call_glibc("mallopt", M_TRIM_THRESHOLD, 64 * 2**20)


def defragment_after_load(model: nn.Module) -> float:
    """After quantizing on the GPU, close the holes left in its memory if they are many and main memory suffices.

    Returns the seconds of that.
    """
    release_memory()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    if is_fragmented(allocated, reserved) and psutil.virtual_memory().available > 1.2 * allocated:
        began = time.perf_counter()
        defragment(model)
        return time.perf_counter() - began
    return 0.0


def is_fragmented(allocated: int, reserved: int) -> bool:
    """Whether so much of a GPU's reserved bytes is in holes that closing them is worth its time."""
    return reserved - allocated > MIN_FRAGMENTATION * reserved


def defragment(model: nn.Module) -> None:
    """Move the model's tensors to main memory and back in one piece; tensors and views keep their identity.

    Quantizing layer by layer leaves holes between the weights, of the size of the unquantized weights; they count as
    reserved, and only smaller tensors can use them. Needs as much main memory as the model, for a moment.
    """
    tensors = (tensor for _, tensor in tensors_by_part(model))
    unique = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors if t.untyped_storage().nbytes()}
    storages = list(unique.values())
    copies = [torch.UntypedStorage(s.nbytes()).copy_(s) for s in storages]
    for storage in storages:
        storage.resize_(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    for storage, copy in zip(storages, copies, strict=True):
        storage.resize_(copy.nbytes())
        storage.copy_(copy)


def _call_glibc(function: str, *numbers: int) -> None:
    """Call a function of GNU's C library; a no-op elsewhere (musl, macOS, Windows)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            getattr(ctypes.CDLL("libc.so.6"), function)(*numbers)
