"""Return freed memory to the system, and close the holes that loading a model leaves in the GPU's memory."""

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator

import torch
from torch import nn

from playground import compat
from playground.memory.ledger import tensors_by_part

# Below either, defragmenting isn't worth its time: holes as a share of the reserved memory, and in bytes
MIN_FRAGMENTATION, MIN_HOLES = 0.05, 40 * 2**20
RELEASED = 20 * 2**20  # bytes that are moved, at least, between two releases of old pages: the size of a page
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


def defragment_after_load(model: nn.Module) -> None:
    """After quantizing on the GPU, close the holes left in its memory if they are many."""
    release_memory()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    if reserved - allocated > max(MIN_HOLES, MIN_FRAGMENTATION * reserved):
        defragment(model)


def defragment(model: nn.Module) -> None:
    """Move the model's tensors to new pages of the GPU's memory, one by one; tensors and views keep their identity.

    Quantizing layer by layer leaves holes between the weights, of the size of the unquantized weights; they count as
    reserved, and only smaller tensors can use them. Tensors move in the order of their addresses, so that old pages
    get empty one after the other and can be released. Where a copy would raise the peak of allocated memory, the tensor
    stays; where no memory is left, those after it do.
    """
    tensors = (tensor for _, tensor in tensors_by_part(model))
    by_address = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors if t.untyped_storage().nbytes()}
    most = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    most_reserved = torch.cuda.max_memory_reserved()
    pool, moved = torch.cuda.MemPool(), 0  # without a pool a tensor would go into the hole that it left
    for _, storage in sorted(by_address.items(), key=lambda pair: pair[0]):
        if storage.nbytes() > most:
            continue
        if moved > RELEASED and torch.cuda.memory_reserved() + storage.nbytes() > most_reserved:
            torch.cuda.empty_cache()
            moved = 0
        try:
            move_storage(storage, torch.cuda.use_mem_pool(pool))
        except torch.OutOfMemoryError:
            break
        moved += storage.nbytes()
    torch.cuda.empty_cache()


def move_storage(storage: torch.UntypedStorage, allocating: contextlib.AbstractContextManager) -> None:
    """Move a storage to where memory is allocated in this context. Where that fails, raises with its bytes kept."""
    copy = storage.clone()
    storage.resize_(0)
    try:
        with allocating:
            storage.resize_(copy.nbytes())
    finally:
        if not storage.nbytes():
            storage.resize_(copy.nbytes())
        storage.copy_(copy)


def _call_glibc(function: str, *numbers: int) -> None:
    """Call a function of GNU's C library; a no-op elsewhere (musl, macOS, Windows)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            getattr(ctypes.CDLL("libc.so.6"), function)(*numbers)
