"""What torch's caching allocator reserves for a tape: holes between what is held count as taken.

After CUDACachingAllocator.cpp of torch 2.11 with `expandable_segments:True`, which this program sets. Two pools, of
tensors up to 1 MiB and above; each is one range of addresses that grows in pages of 2 and 20 MiB. A tensor goes into the
smallest hole that holds it, the lowest of those; else onto the end. Freed neighbours become one hole. Nothing is given back.
"""

import bisect
from collections.abc import Iterable

SMALL = 2**20
PAGES = (2 * 2**20, 20 * 2**20)


class Pool:
    """One range of addresses. `mapped`: bytes taken of the card."""

    def __init__(self, page: int):
        self.page, self.mapped, self.end = page, 0, 0
        self._holes: list[tuple[int, int]] = []  # (size, address), sorted
        self._starts: dict[int, int] = {}  # of holes: address → size, and end → address
        self._ends: dict[int, int] = {}

    def take(self, size: int) -> int:
        """The address of a fresh piece."""
        at = bisect.bisect_left(self._holes, (size, 0))
        if at < len(self._holes):
            hole, address = self._holes[at]
            self._remove(address, hole)
        else:
            address = self._ends.get(self.mapped, self.mapped)  # the hole at the end grows, if there is one
            hole = self.mapped - address
            if hole:
                self._remove(address, hole)
            more = -(-(size - hole) // self.page) * self.page
            self.mapped, hole = self.mapped + more, hole + more
        if hole > size:
            self._add(address + size, hole - size)
        return address

    def give(self, address: int, size: int) -> None:
        """Back to the pool; grown together with the holes beside it."""
        after = self._starts.get(address + size)
        if after:
            self._remove(address + size, after)
            size += after
        before = self._ends.get(address)
        if before is not None:
            length = address - before
            self._remove(before, length)
            address, size = before, size + length
        self._add(address, size)

    def _add(self, address: int, size: int) -> None:
        bisect.insort(self._holes, (size, address))
        self._starts[address], self._ends[address + size] = size, address

    def _remove(self, address: int, size: int) -> None:
        self._holes.pop(bisect.bisect_left(self._holes, (size, address)))
        del self._starts[address], self._ends[address + size]


def simulate_reserved(events: Iterable[tuple[int, int, str]]) -> int:
    """The bytes that are reserved once these were taken and given back; see trace.Tape for the events."""
    pools, there = {True: Pool(PAGES[0]), False: Pool(PAGES[1])}, {}
    for name, size, _ in events:
        if not size:
            continue
        if size > 0:
            pool = pools[size <= SMALL]
            there[name] = pool, pool.take(size), size
        else:
            pool, address, taken = there.pop(name)
            pool.give(address, taken)
    return sum(pool.mapped for pool in pools.values())
