"""Blocks of main memory that a GPU copies from and to by itself: page-locked, of exactly their size.

Not by torch's allocator, which rounds page-locked blocks up to powers of two.
"""

import mmap
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from playground import compat


class NotLocked(Exception):
    """The system doesn't let this program lock more main memory."""


def locked_block(size: int, lock: bool) -> Tensor:
    """A block of main memory of exactly `size` bytes, all zero, page-locked if `lock`.

    Raises MemoryError where main memory is used up, and NotLocked.
    """
    try:
        block = torch.frombuffer(mmap.mmap(-1, max(size, 1)), dtype=torch.uint8)[:size]
    except (OSError, ValueError) as error:
        raise MemoryError(size) from error
    if lock and size and not compat.page_lock(block):
        raise NotLocked(size)
    return block


def unlock(blocks: Sequence[Tensor], *streams: Any) -> None:
    """Unlock main memory, once the streams copy nothing from or to it any more."""
    for stream in streams:
        stream.synchronize()
    for block in blocks:
        if block.numel():
            compat.page_unlock(block)
