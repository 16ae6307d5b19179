"""Simulate torch's caching allocator on CUDA: the bytes that it reserves for a trace, holes between blocks included.

After CUDACachingAllocator.cpp of torch 2.11 with `expandable_segments:True`, which this program sets. There are two
pools, for blocks up to 1 MiB and for larger ones; each is one range of addresses that grows in pages of 2 and 20 MiB. A
block goes into the smallest hole that fits, the lowest of those, else to the end. Adjacent holes are merged. Pages are
returned where the cache is emptied, never before.
"""

import bisect
from collections.abc import Iterable

from playground.predict.allocation_trace import AllocationEvent

MAX_SMALL_BLOCK = 2**20  # bytes
SMALL_PAGE, LARGE_PAGE = 2 * 2**20, 20 * 2**20  # bytes


class Pool:
    """One range of addresses, in bytes. `reserved`: its size, a multiple of the page size."""

    def __init__(self, page: int):
        self.page, self.reserved = page, 0
        self._holes: list[tuple[int, int]] = []  # (size, address), sorted
        self._size_by_start: dict[int, int] = {}  # of each hole
        self._start_by_end: dict[int, int] = {}

    def allocate(self, size: int) -> int:
        """Allocate a block; returns its address."""
        at = bisect.bisect_left(self._holes, (size, 0))
        if at < len(self._holes):
            hole, address = self._holes[at]
            self._remove_hole(address, hole)
        else:
            address = self._start_by_end.get(self.reserved, self.reserved)  # a hole at the end grows
            hole = self.reserved - address
            if hole:
                self._remove_hole(address, hole)
            growth = -(-(size - hole) // self.page) * self.page
            self.reserved, hole = self.reserved + growth, hole + growth
        if hole > size:
            self._add_hole(address + size, hole - size)
        return address

    def free(self, address: int, size: int) -> None:
        """Free a block, and merge the hole with its neighbours."""
        next_size = self._size_by_start.get(address + size)
        if next_size is not None:
            self._remove_hole(address + size, next_size)
            size += next_size
        previous = self._start_by_end.get(address)
        if previous is not None:
            previous_size = address - previous
            self._remove_hole(previous, previous_size)
            address, size = previous, size + previous_size
        self._add_hole(address, size)

    def _add_hole(self, address: int, size: int) -> None:
        bisect.insort(self._holes, (size, address))
        self._size_by_start[address], self._start_by_end[address + size] = size, address

    def _remove_hole(self, address: int, size: int) -> None:
        self._holes.pop(bisect.bisect_left(self._holes, (size, address)))
        del self._size_by_start[address], self._start_by_end[address + size]


def simulate_reserved(events: Iterable[AllocationEvent]) -> int:
    """Bytes that torch has reserved on CUDA after these events."""
    small, large = Pool(SMALL_PAGE), Pool(LARGE_PAGE)
    addresses: dict[int, int] = {}  # of live blocks
    for event in events:
        if not event.size:
            continue
        pool = small if event.size <= MAX_SMALL_BLOCK else large
        if event.is_free:
            pool.free(addresses.pop(event.block), event.size)
        else:
            addresses[event.block] = pool.allocate(event.size)
    return small.reserved + large.reserved
