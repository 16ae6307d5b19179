"""Track the peak of measured memory, per phase of a job and over the whole job."""

import torch

from playground.memory import meter


class PeakTracker:
    """The largest readings in bytes by kind (rss, allocated, reserved, device_used), per phase and per job.

    device: "cuda" or "cpu"; on a CPU only rss is tracked, since memory that an earlier job left on a GPU isn't this
    one's.
    """

    def __init__(self, device: str):
        self._device = device
        self.phase: dict[str, int] = {}
        self._earlier_phases: dict[str, int] = {}
        self._reset()

    def update(self, reading: dict[str, int]) -> None:
        """Take in one of the meter's readings."""
        self.phase = maximum(self.phase, reading if self._device == "cuda" else {"rss": reading["rss"]})

    def start_phase(self) -> None:
        """Begin a phase: earlier readings don't count for it."""
        self._earlier_phases, self.phase = self.job_peak(), {}
        self._reset()

    def phase_peak(self) -> dict[str, int]:
        """This phase's peak so far: exact by torch's counters, the rest as sampled by the meter and once more now."""
        self.update(meter.read_memory())
        exact = {}
        if self._on_gpu():
            exact = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
        return maximum(self.phase, exact)

    def job_peak(self) -> dict[str, int]:
        """The whole job's peak so far."""
        return maximum(self._earlier_phases, self.phase_peak())

    def _reset(self) -> None:
        if self._on_gpu():
            torch.cuda.reset_peak_memory_stats()
        self.update(meter.read_memory())

    def _on_gpu(self) -> bool:
        return self._device == "cuda" and torch.cuda.is_initialized()


def maximum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """The larger reading in bytes of each kind."""
    return {kind: max(one.get(kind, 0), other.get(kind, 0)) for kind in {**one, **other}}
