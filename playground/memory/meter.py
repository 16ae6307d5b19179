"""Measure memory ten times a second while a job runs; in bytes."""

import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from playground.memory.main_memory import main_memory_capacity, unused_main_memory

PERIOD = 0.1  # seconds between readings
FAILED_ALLOCATION = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|[KMG]iB)")  # torch, on a GPU and on a CPU
UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
LOW_MEMORY = 2**28  # bytes that no process uses


def read_memory() -> dict[str, int]:
    """Bytes by kind: "rss" of this process; where it uses CUDA also "allocated", "reserved" and "device_used".

    The first two of these are torch's; device_used is of the whole GPU, by all processes.
    """
    reading = {"rss": psutil.Process().memory_info().rss}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        reading |= {
            "allocated": torch.cuda.memory_allocated(),
            "reserved": torch.cuda.memory_reserved(),
            "device_used": total - free,
        }
    return reading


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out.

    oneDNN reports any failure as "could not create a primitive". That is taken for an out-of-memory where the process's
    address space is limited (`ulimit -v`), or where next to no memory is available.
    """
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return True
    return "could not create a primitive" in str(error) and (
        _address_space_is_limited() or unused_main_memory() < LOW_MEMORY
    )


def failed_allocation(error: BaseException) -> int:
    """Bytes of the allocation that an out-of-memory error of torch says has failed; 0 where it doesn't say."""
    found = FAILED_ALLOCATION.search(str(error))
    return int(float(found[1]) * UNITS[found[2]]) if found else 0


def _address_space_is_limited() -> bool:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def hardware(device: str) -> dict:
    """The device that a run is measured on: {"device", "name", "capacity" (bytes), "cores"}."""
    if device == "cuda":
        import torch

        card = torch.cuda.get_device_properties(torch.cuda.current_device())
        return {"device": "cuda", "name": card.name, "capacity": card.total_memory, "cores": os.cpu_count()}
    return {"device": "cpu", "name": _processor_name(), "capacity": main_memory_capacity(), "cores": os.cpu_count()}


class Meter:
    """A thread that calls `sink(reading)` every tenth of a second between `start` and `stop`.

    peak: the largest bytes by kind so far.
    """

    def __init__(self, sink: Callable[[dict], None]):
        self.peak: dict[str, int] = {}
        self._sink = sink
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "Meter":
        """Start measuring."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop measuring, once a reading in progress is over."""
        self._halt.set()
        self._thread.join()

    def take(self) -> None:
        """Take a reading now."""
        reading = read_memory()
        for kind, size in reading.items():
            self.peak[kind] = max(size, self.peak.get(kind, 0))
        self._sink(reading)

    def _run(self) -> None:
        while not self._halt.wait(PERIOD):
            self.take()


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    import platform

    return platform.processor() or platform.machine()
