"""Extrapolate a deep model's allocation trace from a shallow one.

Repeated layers do the same, so not all are traced (shallow_model.py). The computation runs over the layers several
times: forward, backward, once more where layers are checkpointed; one such run is a sweep here. In every sweep, two
neighbouring periods of layers must do the same, event by event. Then the layers that were left out do the same too, and
their events are written between the two periods. Where neighbours differ, or where their blocks are freed differently,
LayersDiffer is raised: the caller then traces all layers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from playground.predict.allocation_trace import AllocationEvent
from playground.predict.shallow_model import LayersDiffer, Region


def extrapolate(events: Sequence[AllocationEvent], regions: Sequence[Region]) -> list[AllocationEvent]:
    """The deep network's events, from those of the shallow one and the regions where layers were left out of it.

    Raises LayersDiffer where the events of the traced layers don't repeat.
    """
    extrapolated = list(events)
    for region in reversed(regions):  # the last region first, so that the layer numbers of the others stay
        extrapolated = _extrapolate_region(extrapolated, region)
    return extrapolated


class Position(NamedTuple):
    """Where an event stands: in which sweep, in which layer, and its number among that layer's events in that sweep."""

    sweep: int
    layer: int
    step: int


class Reference(NamedTuple):
    """A block of a layer in the region, as seen from another layer: the position of its allocation."""

    sweep: int
    layer_offset: int  # of the block's layer from the referring one
    step: int


class OutsideBlock(NamedTuple):
    """A block that was allocated outside the region."""

    block: int  # its id in the shallow trace


class LayerStep(NamedTuple):
    """What a layer does at one event, written so that equal layers have equal steps."""

    size: int  # bytes
    part: str
    stage: str
    frees: Reference | OutsideBlock | None  # None: it allocates


@dataclass
class Sweep:
    """One run of the computation over all layers of the region, forward or backward."""

    start: int  # indices of its events
    end: int
    is_forward: bool
    layers: dict[int, range]  # indices of each layer's events


Steps = dict[tuple[int, int], list[LayerStep]]  # by sweep and layer


def _extrapolate_region(events: Sequence[AllocationEvent], region: Region) -> list[AllocationEvent]:
    sweeps = _find_sweeps(events, region)
    positions = {
        index: Position(number, layer, index - indices.start)
        for number, sweep in enumerate(sweeps)
        for layer, indices in sweep.layers.items()
        for index in indices
    }
    steps = {
        (number, layer): [_layer_step(events[index], layer, positions) for index in indices]
        for number, sweep in enumerate(sweeps)
        for layer, indices in sweep.layers.items()
    }
    common = {
        (number, layer): _common_steps(events, steps, number, layer, region)
        for number in range(len(sweeps))
        for layer in range(region.first, region.second)
    }
    deep = DeepTrace(region)
    written = 0
    for number, sweep in enumerate(sweeps):
        deep.write_outside(events, range(written, sweep.start), positions)
        deep.write_sweep(number, sweep.is_forward, steps, common)
        written = sweep.end
    deep.write_outside(events, range(written, len(events)), positions)
    _check_frees(deep, len(sweeps), region)
    return deep.events


def _find_sweeps(events: Sequence[AllocationEvent], region: Region) -> list[Sweep]:
    """The sweeps over the region. Raises LayersDiffer if one skips a layer, or takes layers out of order."""
    visits: list[tuple[int, range]] = []  # (layer, its events without interruption)
    for index, event in enumerate(events):
        if region.first <= event.layer < region.end:
            layer, indices = visits[-1] if visits else (event.layer, range(0))
            if layer == event.layer and indices.stop == index:
                visits[-1:] = [(layer, range(indices.start, index + 1))]
            else:
                visits.append((event.layer, range(index, index + 1)))
    forward = list(range(region.first, region.end))
    sweeps = []
    for n in range(0, len(visits), len(forward)):
        one = visits[n : n + len(forward)]
        order = [layer for layer, _ in one]
        if order not in (forward, forward[::-1]) or any(a[1].stop != b[1].start for a, b in pairwise(one)):
            raise LayersDiffer(f"layers of one sweep: {order}, not {forward} in one piece")
        sweeps.append(Sweep(one[0][1].start, one[-1][1].stop, order == forward, dict(one)))
    return sweeps


def _layer_step(event: AllocationEvent, layer: int, positions: dict[int, Position]) -> LayerStep:
    """An event of a layer; `positions`: of all events in the region."""
    if not event.is_free:
        return LayerStep(event.size, event.part, event.stage, None)
    allocated = positions.get(event.block)
    if allocated is None:
        return LayerStep(event.size, event.part, event.stage, OutsideBlock(event.block))
    reference = Reference(allocated.sweep, allocated.layer - layer, allocated.step)
    return LayerStep(event.size, event.part, event.stage, reference)


def _common_steps(
    events: Sequence[AllocationEvent], steps: Steps, sweep: int, layer: int, region: Region
) -> list[LayerStep]:
    """What a layer of the first period and the same layer of the second both do. Raises LayersDiffer if they don't."""
    one, other = steps[sweep, layer], steps[sweep, layer + region.period]
    if len(one) != len(other):
        raise LayersDiffer(f"sweep {sweep}: {len(one)} events in layer {layer}, {len(other)} a period later")
    common = []
    for step, later in zip(one, other):
        shared = _common_step(events, step, later, layer, region)
        if shared is None:
            raise LayersDiffer(f"sweep {sweep}: {step} in layer {layer}, {later} a period later")
        common.append(shared)
    return common


def _common_step(
    events: Sequence[AllocationEvent], step: LayerStep, later: LayerStep, layer: int, region: Region
) -> LayerStep | None:
    """The step that stands for both; None if there is none.

    At the region's edge, one of the two may free a block of a layer outside the region. That is the same step if the
    block's layer is as far away as in the other one.
    """
    if step == later:  # two layers can't both free the same block
        return None if isinstance(step.frees, OutsideBlock) else step
    if step[:3] != later[:3]:
        return None
    if isinstance(step.frees, Reference) and isinstance(later.frees, OutsideBlock):
        reference, outside, frees_from = step.frees, later.frees, layer + region.period
    elif isinstance(step.frees, OutsideBlock) and isinstance(later.frees, Reference):
        reference, outside, frees_from = later.frees, step.frees, layer
    else:
        return None
    if events[outside.block].layer != frees_from + reference.layer_offset:
        return None
    return step._replace(frees=reference)


@dataclass
class DeepTrace:
    """The deep network's events while they are written."""

    region: Region
    events: list[AllocationEvent] = field(default_factory=list)
    indices: dict[tuple[int, int], range] = field(default_factory=dict)  # of events, by sweep and deep layer
    _outside_blocks: dict[int, int] = field(default_factory=dict)  # block in the shallow trace → in this one

    def write_outside(
        self, events: Sequence[AllocationEvent], indices: Iterable[int], positions: dict[int, Position]
    ) -> None:
        """Write events of the shallow trace that belong to no layer of the region."""
        for index in indices:
            event, block = events[index], len(self.events)
            if not event.is_free:
                self._outside_blocks[index] = block
            elif event.block in positions:
                sweep, layer, step = positions[event.block]
                block = self.indices[sweep, self.region.to_deep(layer)][step]
            else:
                block = self._outside_blocks[event.block]
            deep_layer = self.region.to_deep(event.layer)
            self.events.append(
                AllocationEvent(block, event.size, event.part, event.is_free, deep_layer, stage=event.stage)
            )

    def write_sweep(self, sweep: int, is_forward: bool, steps: Steps, common: Steps) -> None:
        """Write a sweep over the region's layers and those that were left out of it.

        common: the steps that repeat from period to period, by layer of the first period.
        """
        region = self.region
        layers = range(region.first, region.end + region.left_out)
        for layer in layers if is_forward else reversed(layers):
            if layer < region.second:
                self._write_layer(sweep, layer, steps[sweep, layer])
            elif layer < region.second + region.left_out:
                self._write_layer(sweep, layer, common[sweep, region.first + (layer - region.first) % region.period])
            else:
                self._write_layer(sweep, layer, steps[sweep, layer - region.left_out])

    def _write_layer(self, sweep: int, layer: int, steps: list[LayerStep]) -> None:
        start = len(self.events)
        self.indices[sweep, layer] = range(start, start + len(steps))
        for block, (size, part, stage, frees) in enumerate(steps, start):
            if isinstance(frees, Reference):
                block = self.indices[frees.sweep, layer + frees.layer_offset][frees.step]
            elif frees is not None:
                block = self._outside_blocks[frees.block]
            self.events.append(AllocationEvent(block, size, part, frees is not None, layer, stage=stage))


def _check_frees(deep: DeepTrace, sweeps: int, region: Region) -> None:
    """Raise LayersDiffer unless in all periods the same blocks are freed in the end, by whichever event."""
    freed = {event.block for event in deep.events if event.is_free}
    for sweep in range(sweeps):
        for layer in range(region.first, region.second):
            periods = range(layer, region.end + region.left_out, region.period)
            outcomes = [[index in freed for index in deep.indices[sweep, n]] for n in periods]
            if any(outcome != outcomes[0] for outcome in outcomes):
                raise LayersDiffer(f"sweep {sweep}: some blocks of layer {layer} are freed in only some of its periods")
