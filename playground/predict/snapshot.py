"""A predicted training step in the format of PyTorch's memory viewer (https://docs.pytorch.org/memory_viz).

The counterpart of the snapshot that `torch.cuda.memory._dump_snapshot` writes of a measured one
(memory/cuda_snapshot.py): drop both into the viewer to see them side by side. Where a measured block has the stack that
allocated it, a predicted one has its part of the ledger, its layer and its stage.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PreTrainedConfig

from playground.data.batch import Example
from playground.predict.allocation_trace import OUTSIDE, AllocationEvent
from playground.predict.phase_traces import end_bytes, trace_tune
from playground.predict.traced_model import Target, TracedModel
from playground.settings import Settings
from playground.train.trainer import Trainer

START_ADDRESS = 2**40  # any; blocks follow each other, so that no address is used twice


def tune_snapshot(config: PreTrainedConfig, settings: Settings, target: Target, lengths: Sequence[int]) -> dict:
    """The snapshot of an optimizer step over rows of these lengths in tokens, from loading on."""

    def summarize(traced: TracedModel, trainer: Trainer, rows: Sequence[Example]) -> dict:
        return as_snapshot(traced.placed_events(settings.load, target, end_bytes(trainer, target))[0])

    return trace_tune(summarize, config, settings, target, lengths)


def as_snapshot(events: Iterable[AllocationEvent]) -> dict[str, Any]:
    """Allocation events as {"segments": [], "device_traces": [[…]]}; the time is the number of the event."""
    address, addresses, trace = START_ADDRESS, dict[int, int](), list[dict[str, Any]]()
    for number, event in enumerate(events):
        entry = {"size": event.size, "stream": 0, "time_us": number, "frames": _frames(event)}
        if event.is_free:
            freed = {"addr": addresses.pop(event.block), **entry}
            trace += [{"action": action, **freed} for action in ("free_requested", "free_completed")]
            continue
        addresses[event.block] = address
        trace.append({"action": "alloc", "addr": address, **entry})
        address += event.size
    return {"segments": [], "device_traces": [trace]}


def _frames(event: AllocationEvent) -> list[dict[str, Any]]:
    """What the viewer shows of a block."""
    layer = "outside the layers" if event.layer == OUTSIDE else f"layer {event.layer}"
    names = [event.part, layer, *([event.stage] if event.stage else [])]
    return [{"name": name, "filename": "predicted", "line": 0} for name in names]
