"""Condense a traced phase to a tape: what is in memory, layer by layer, each time the computation visits a layer.

A visit is one uninterrupted run of a stage (forward, recompute, backward, …) through a layer, or through what lies
outside the layers: embeddings, head, loss. Each is told by one instant, the one at which the most bytes are allocated
during the visit; so the highest instant of a tape is the peak that phases.py predicts from the same trace.

Which layer is at work is known from the weights that it uses: what a layer does before it touches its first weight is
told with the layer before it. Bytes belong to the layer in which they were allocated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from transformers import PreTrainedConfig

from playground.data.batch import Example
from playground.predict.allocation_trace import OUTSIDE, AllocationEvent, bytes_by_part
from playground.predict.buffered_layers import buffered_layers
from playground.predict.phase_traces import end_bytes, trace_chat, trace_load, trace_tune
from playground.predict.streamed_events import waiting_layers
from playground.predict.trace_cache import cached_prediction
from playground.predict.traced_model import Target, TracedModel
from playground.settings import Settings
from playground.train.trainer import Trainer

MAX_VISITS = 360  # in a tape; of a deeper network's, the highest of each group of neighbours is kept


@dataclass
class Visit:
    """One visit: its stage, its layer (OUTSIDE: none), and the indices of its events."""

    stage: str
    layer: int
    start: int
    end: int


@cached_prediction("load")
def load_tape(config: PreTrainedConfig, settings: Settings, target: Target) -> dict:
    """The tape of loading; see `condense`."""
    return _tape_of(trace_load(config, settings, target), settings, target)


@cached_prediction("load")
def chat_tape(config: PreTrainedConfig, settings: Settings, target: Target, context: int) -> dict:
    """The tape of an answer of `context` tokens with its prompt; see `condense`."""
    return trace_chat(lambda traced: _tape_of(traced, settings, target), config, settings, target, context)


@cached_prediction("load", "lora", "train")
def tune_tape(config: PreTrainedConfig, settings: Settings, target: Target, lengths: Sequence[int]) -> dict:
    """The tape of an optimizer step over rows of these lengths in tokens; see `condense`.

    Also "checkpointing", as planned for the target's capacity. Of many micro-batches, the two largest are told.
    """

    def summarize(traced: TracedModel, trainer: Trainer, rows: Sequence[Example]) -> dict:
        checkpointing = trainer.plan.policy.checkpointing
        return _tape_of(traced, settings, target, end_bytes(trainer, target)) | {"checkpointing": checkpointing}

    return trace_tune(summarize, config, settings, target, lengths)


def _tape_of(traced: TracedModel, settings: Settings, target: Target, ends: Sequence[int] = ()) -> dict:
    """ends: phase_traces.end_bytes."""
    events, _ = traced.placed_events(settings.load, target, ends)
    waiting = waiting_layers(settings.load, traced.depth, target.shares)
    return condense(events, traced.depth, waiting) | ({"split": target.shares} if target.shares else {})


def condense(events: Sequence[AllocationEvent], layers: int, waiting: Sequence[int] = ()) -> dict:
    """The tape of a network of so many layers from all its events. waiting: numbers of streamed or split layers.

    Returns {"layers", "names": of parts, "visits": [{"stage", "layer" (-1: outside the layers), "allocated": bytes at
    the instant, "end": bytes after the visit, "made": bytes allocated during the visit, "kept": those of them still
    allocated after it, "freed": bytes of earlier visits freed in it, "work": the most bytes of work space that the
    visit took at once, "changes": [[layer, index of the part, bytes that the layer holds from this instant on]]}],
    "allocated": bytes at the peak, "parts": {part: bytes} at the peak}. The first visit's stage is "prepare":
    everything before the computation, its changes are from nothing. Where layers wait, also "waiting", their numbers,
    and in each visit "ready" and "copying" (buffered_layers.Buffered); `_tape_of` adds "split", over how many
    processes.
    """
    writer, found = _TapeWriter(events), _find_visits(events)
    chosen = set(_highest_of_neighbours(events, found))
    buffered = buffered_layers([(visit.stage, visit.layer) for visit in found], waiting) if waiting else []
    visits = []
    for n, visit in enumerate(found):
        if written := writer.write(visit, n in chosen):
            visits.append(written | (buffered[n]._asdict() if waiting else {}))
    return {
        "layers": layers,
        "names": writer.names,
        "visits": visits,
        "allocated": writer.highest,
        "parts": bytes_by_part(events[: writer.highest_at + 1]),
        **({"waiting": list(waiting)} if waiting else {}),
    }


def _find_visits(events: Sequence[AllocationEvent]) -> list[Visit]:
    """The visits of all events, the first of them what comes before the computation.

    Three kinds of runs join a neighbour: frees alone (Python drops what an earlier layer made); a recomputation's first
    operators, which use no weight yet; and the optimizer's, which works on all layers at once.
    """
    at = next((n for n, event in enumerate(events) if event.stage), len(events))
    visits = [Visit("prepare", OUTSIDE, 0, at)]

    def key(event: AllocationEvent) -> tuple[str, int]:
        return event.stage, OUTSIDE if event.stage == "optimizer" else event.layer

    for (stage, layer), run in groupby(events[at:], key):
        run_events = list(run)
        last, start, at = visits[-1], at, at + len(run_events)
        if last.stage == stage and (last.layer == layer or all(event.is_free for event in run_events)):
            last.end = at
        elif last.stage == stage == "recompute":
            last.layer, last.end = layer, at
        else:
            visits.append(Visit(stage, layer, start, at))
    _join_beginning(visits)
    return visits


def _join_beginning(visits: list[Visit]) -> None:
    """Join what the computation does before its first weight, which no layer has, to the embeddings after it."""
    if len(visits) > 2 and visits[1].stage == visits[2].stage == "forward" and visits[2].layer == OUTSIDE:
        visits[1:3] = [Visit("forward", OUTSIDE, visits[1].start, visits[2].end)]


def _highest_of_neighbours(events: Sequence[AllocationEvent], visits: Sequence[Visit]) -> Iterator[int]:
    """The numbers of the visits to tell: all of them, or of each group of neighbours the highest."""
    size = max(1, -(-len(visits) // MAX_VISITS))
    heights, before = [], 0
    for visit in visits:
        height = before
        for event in events[visit.start : visit.end]:
            before += event.change
            height = max(height, before)
        heights.append(height)
    for start in range(0, len(visits), size):
        yield max(range(start, min(start + size, len(visits))), key=heights.__getitem__)


class _TapeWriter:
    """Walks along the events once and notes what changed from one instant to the next."""

    def __init__(self, events: Sequence[AllocationEvent]) -> None:
        self.names: list[str] = []
        self.allocated = 0
        self.highest, self.highest_at = 0, -1
        self._events, self._next = events, 0
        self._held: dict[tuple[int, str], int] = {}  # bytes by layer and part
        self._changed: dict[tuple[int, str], int] = {}  # what the last instant told of those that changed since

    def write(self, visit: Visit, is_recorded: bool) -> dict[str, Any] | None:
        """Walk through a visit; what the tape says of it, if anything."""
        height, instant, allocated = self.allocated, visit.start, self.allocated
        for index in range(visit.start, visit.end):
            allocated += self._events[index].change
            if allocated > height:
                height, instant = allocated, index + 1
        written: dict[str, Any] | None = None
        if is_recorded:
            written = {"stage": visit.stage, "layer": visit.layer, "allocated": height}
            written |= {"changes": self._changes_up_to(instant), "end": allocated, **self._account(visit)}
        self._walk(visit.end)
        return written

    def _changes_up_to(self, index: int) -> list[list[int]]:
        """Walk up to an event; what changed since the last call: [[layer, index of the part, bytes]]."""
        self._walk(index)
        changes = []
        for key, before in self._changed.items():
            layer, part = key
            if self._held[key] != before:
                if part not in self.names:
                    self.names.append(part)
                changes.append([layer, self.names.index(part), self._held[key]])
        self._changed.clear()
        return changes

    def _walk(self, index: int) -> None:
        for number in range(self._next, index):
            event = self._events[number]
            key = self._events[event.block].layer, event.part
            held = self._held.get(key, 0)
            self._changed.setdefault(key, held)
            self._held[key] = held + event.change
            self.allocated += event.change
            if self.allocated > self.highest:
                self.highest, self.highest_at = self.allocated, number
        self._next = max(self._next, index)

    def _account(self, visit: Visit) -> dict[str, int]:
        """Bytes that a visit allocated, those of them that outlive it, and earlier ones that it freed."""
        made = freed_own = freed_earlier = work = most_work = 0
        for event in self._events[visit.start : visit.end]:
            if not event.is_free:
                made += event.size
            elif event.block >= visit.start:
                freed_own += event.size
            else:
                freed_earlier += event.size
            if event.part == "buffers":
                work += event.change
                most_work = max(most_work, work)
        return {"made": made, "kept": made - freed_own, "freed": freed_earlier, "work": most_work}
