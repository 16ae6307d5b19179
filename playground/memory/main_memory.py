"""How many bytes of main memory there are for this process: the machine's, or those of a container with a limit."""

from collections.abc import Iterator
from pathlib import Path

import psutil

GROUPS = Path("/sys/fs/cgroup")
# Files of a control group: the limit, what its processes use with the cached files, and counts of which those named are
# bytes of cached files, which the system takes back when they are needed (Linux's cgroup-v2 and cgroup-v1 memory docs).
VERSION_2 = ("memory.max", "memory.current", "memory.stat", ("inactive_file", "active_file"))
VERSION_1 = (
    *("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ("total_inactive_file", "total_active_file"),
)


def main_memory_capacity() -> int:
    """All that this process may use."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _limits())])


def unused_main_memory() -> int:
    """What this process can still take, since no process uses it."""
    return max(0, min([psutil.virtual_memory().available, *(limit - used for limit, used in _limits())]))


def available_main_memory() -> int:
    """What this process can have in all: what it has now, and what no process uses."""
    return min(unused_main_memory() + psutil.Process().memory_info().rss, main_memory_capacity())


def _limits() -> Iterator[tuple[int, int]]:
    """(limit, bytes in use) of the container, none where it has no limit, or off Linux."""
    for limit, usage, counts, cached in (VERSION_2, VERSION_1):
        try:
            most, used = int((GROUPS / limit).read_text()), int((GROUPS / usage).read_text())
            lines = (line.split() for line in (GROUPS / counts).read_text().splitlines())
            yield most, used - sum(int(line[1]) for line in lines if line[0] in cached)
        except (OSError, ValueError):  # "max" is no limit
            continue
