"""The meter: measured memory, ten times a second, for as long as a job runs. Bytes."""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

PERIOD = 0.1
SCARCE = 2**28  # bytes free of the whole machine


def read_memory() -> dict[str, int]:
    """Resident memory of this process; where CUDA is in use also what torch allocated and reserved, and the card's use."""
    now = {"rss": psutil.Process().memory_info().rss}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        now |= {
            "allocated": torch.cuda.memory_allocated(),
            "reserved": torch.cuda.memory_reserved(),
            "device_used": total - free,
        }
    return now


def main_memory_capacity() -> int:
    """Bytes of main memory that this process may use: the machine's, or its container's limit where that is less."""
    total = psutil.virtual_memory().total
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):  # not Linux, or no limit ("max")
            continue
    return total


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out.

    oneDNN says of everything only that it "could not create a primitive"; where this process may address only so much, as
    under `ulimit -v` or where next to nothing is free, memory is why.
    """
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return True
    return "could not create a primitive" in str(error) and (
        _held_to_a_limit() or psutil.virtual_memory().available < SCARCE
    )


def _held_to_a_limit() -> bool:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def hardware(device: str) -> dict:
    """What a run is measured on: {"device", "name", "capacity" (bytes), "cores"}."""
    if device == "cuda":
        import torch

        card = torch.cuda.get_device_properties(torch.cuda.current_device())
        return {"device": "cuda", "name": card.name, "capacity": card.total_memory, "cores": os.cpu_count()}
    return {"device": "cpu", "name": _processor(), "capacity": main_memory_capacity(), "cores": os.cpu_count()}


class Meter:
    """Calls `sink(reading)` every tenth of a second between `start` and `stop`, and keeps the peak of each kind."""

    def __init__(self, sink: Callable[[dict], None]):
        self.peak: dict[str, int] = {}
        self._sink = sink
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "Meter":
        self._thread.start()
        return self

    def stop(self) -> None:
        self._halt.set()
        self._thread.join()

    def take(self) -> None:
        """One reading now."""
        now = read_memory()
        for kind, size in now.items():
            self.peak[kind] = max(size, self.peak.get(kind, 0))
        self._sink(now)

    def _run(self) -> None:
        while not self._halt.wait(PERIOD):
            self.take()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    import platform

    return platform.processor() or platform.machine()
