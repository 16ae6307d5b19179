"""The simulation of torch's caching allocator."""

from playground.predict.allocation_trace import AllocationEvent
from playground.predict.allocator import simulate_reserved

MIB = 2**20


def allocate(block: int, size: int) -> AllocationEvent:
    return AllocationEvent(block, size, "")


def free(block: int, size: int) -> AllocationEvent:
    return AllocationEvent(block, size, "", is_free=True)


def test_blocks_are_reserved_in_pages():
    assert simulate_reserved([allocate(1, 512)]) == 2 * MIB
    assert simulate_reserved([allocate(1, MIB), allocate(2, MIB + 512)]) == (2 + 20) * MIB
    assert simulate_reserved([allocate(1, 10 * MIB)]) == 20 * MIB


def test_a_freed_hole_is_used_again_and_grows_at_the_end():
    assert simulate_reserved([allocate(1, 10 * MIB), free(1, 10 * MIB), allocate(2, 20 * MIB)]) == 20 * MIB


def test_a_hole_that_is_too_small_stays_reserved():
    events = [allocate(1, 10 * MIB), allocate(2, 10 * MIB), free(1, 10 * MIB), allocate(3, 11 * MIB)]
    assert simulate_reserved(events) == 40 * MIB


def test_adjacent_holes_are_merged():
    blocks = [allocate(n, 5 * MIB) for n in range(4)]
    assert simulate_reserved([*blocks, free(1, 5 * MIB), free(2, 5 * MIB), allocate(4, 10 * MIB)]) == 20 * MIB
    assert simulate_reserved([*blocks, free(0, 5 * MIB), free(2, 5 * MIB), allocate(4, 10 * MIB)]) == 40 * MIB


def test_the_smallest_hole_that_fits_is_used():
    sizes = [7, 3, 4, 3, 3]  # MiB
    blocks = [allocate(n, size * MIB) for n, size in enumerate(sizes)]
    events = [*blocks, free(0, 7 * MIB), free(2, 4 * MIB), allocate(5, 4 * MIB), allocate(6, 7 * MIB)]
    assert simulate_reserved(events) == 20 * MIB
