"""Record every tensor that code allocates and frees while it runs on torch's meta device.

Meta tensors have a shape and no values, so a model of 7 B parameters takes no memory and a training step a second. It
is the program's own code that runs, so the trace has what autograd keeps and what a checkpointed layer computes again.
Memory that a trace can't see, because a kernel allocates it internally, is listed in memory/constants.py.
"""

import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from playground import compat
from playground.memory import constants
from playground.memory.constants import aligned
from playground.predict import meta_kernels
from playground.predict.call_cache import CallCache
from playground.predict.operations import Work

OUTSIDE = -1  # layer number of what belongs to no repeated layer
UNKNOWN = -2  # layer number of what isn't assigned to a layer yet

call_cache = CallCache()  # shared by all traces of the process


class AllocationEvent(NamedTuple):
    """One block of memory allocated or freed."""

    block: int  # the block's id: the index of its allocation in the list of events
    size: int  # bytes, a multiple of ALIGNMENT
    part: str  # of the ledger: weights, activations, …
    is_free: bool = False
    layer: int = OUTSIDE  # number of the repeated layer that the event belongs to
    is_unordered: bool = False  # a free while no layer is running: Python frees a deep graph in an arbitrary order
    stage: str = ""  # of the computation: forward, recompute, backward, optimizer; load; prefill, decode; "": before

    @property
    def change(self) -> int:
        """Bytes by which the allocated memory grows: negative for a free."""
        return -self.size if self.is_free else self.size


class AllocationTrace(compat.dispatch_mode()):  # type: ignore[misc]
    """A context in which each storage's allocation and free is appended to `events`.

    part: the part under which new storages are booked. Storages made outside the context are added by `book`. Once it
    knows which weights are whose (`assign_layer`), each event is assigned to the layer that is running: the one whose
    weight was last passed to an operator.

    stage: of the computation, set by whoever runs it. Autograd's stages, backward and recompute, are detected, and what
    follows them is the optimizer's until another stage is set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[AllocationEvent] = []
        self.part = "buffers"
        self.layer = UNKNOWN  # that is running; OUTSIDE: none
        self.stage = ""
        self.work: dict[tuple[str, int], list[tuple[Work, ...]]] = defaultdict(list)  # of calls, by stage and layer
        self._blocks: dict[int, int] = {}  # address of each live storage → its block
        self._weight_layers: dict[int, int] = {}  # address of a weight's storage → its layer
        self._copied_from: dict[int, int | None] = {}  # block made while the layer was UNKNOWN → its original's block

    def __enter__(self) -> "AllocationTrace":
        meta_kernels.install()
        compat.observe_meta_kernels(lambda *kernel: self.count((Work(*kernel),), self._running_stage()))
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        meta_kernels.uninstall()
        compat.observe_meta_kernels(None)

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if compat.reads_a_number(function) and args[0].is_meta:
            return False if args[0].dtype == torch.bool else 1  # to "is no row padded?" the answer is no
        if self._weight_layers:
            self._detect_layer(function, args)
        result, work = call_cache.call(function, args, kwargs or {})
        stage = self._running_stage()
        self.count(work, stage)
        part = "buffers" if function.namespace == "bitsandbytes" else self.part
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                self._record(tensor, part, args[0] if args else None, stage)
        for size in constants.kernel_temporaries(function, args, result):
            self.allocate_and_free(size)
        return result

    def count(self, work: tuple[Work, ...], stage: str) -> None:
        """Note a call in this stage and the running layer; none before the computation, which has no stage."""
        if stage:
            self.work[stage, self.layer].append(work)

    def book(self, part: str, tensor: torch.Tensor) -> None:
        """Book a tensor under `part`, whether it was made outside or is booked under another part."""
        address = compat.storage_id(tensor)
        self.layer, block = self._weight_layers.get(address, self.layer), self._blocks.get(address)
        if block is None:
            self._record(tensor, part)
        else:
            self.events[block] = self.events[block]._replace(part=part)

    def allocate(self, size: int, part: str, stage: str | None = None) -> int:
        """Allocate a block of `size` bytes that no tensor stands for; returns its id, for `free`.

        stage: the running one, where it is known already.
        """
        block = len(self.events)
        stage = self._running_stage() if stage is None else stage
        self.events.append(AllocationEvent(block, aligned(size), part, False, self.layer, stage=stage))
        return block

    def free(self, block: int) -> None:
        """Free a block."""
        allocated = self.events[block]
        unordered = self.layer in (UNKNOWN, OUTSIDE)
        layer = allocated.layer if unordered else self.layer
        stage = self._running_stage()
        self.events.append(AllocationEvent(block, allocated.size, allocated.part, True, layer, unordered, stage))

    def allocate_and_free(self, size: int, part: str = "buffers") -> None:
        """A block that a kernel allocates and frees internally."""
        self.free(self.allocate(size, part))

    def assign_layer(self, layer: int, tensors: Iterable[torch.Tensor]) -> None:
        """Assign weights to a layer (OUTSIDE: to none), with the allocations that made them within this trace."""
        for tensor in tensors:
            address = compat.storage_id(tensor)
            self._weight_layers[address] = layer
            block = self._blocks.get(address)
            while block is not None and self.events[block].layer == UNKNOWN:
                self.events[block] = self.events[block]._replace(layer=layer)
                block = self._copied_from.get(block)

    def layer_of(self, tensor: torch.Tensor) -> int:
        """The layer that a tensor is assigned to or was made in; OUTSIDE for none."""
        address = compat.storage_id(tensor)
        block = self._blocks.get(address)
        made_in = UNKNOWN if block is None else self.events[block].layer
        layer = self._weight_layers.get(address, made_in)
        return OUTSIDE if layer == UNKNOWN else layer

    def events_by_layer(self) -> list[AllocationEvent]:
        """The events, each assigned to a layer.

        What was made before layers were known goes to the layer of the event before it. Unordered frees that follow
        each other are sorted: what is free after them is the same in any order.
        """
        resolved: list[AllocationEvent] = []
        for event in self.events:
            if event.layer == UNKNOWN:
                event = event._replace(layer=_infer_layer(event, resolved))
            resolved.append(event)
        sorted_events: list[AllocationEvent] = []
        for unordered, group in groupby(resolved, key=lambda event: event.is_unordered):
            run = list(group)
            sorted_events += sorted(run, key=lambda event: (event.layer, event.block)) if unordered else run
        return sorted_events

    def fork(self) -> "AllocationTrace":
        """A second trace that begins with this one's events.

        Blocks that are live now stay allocated in it: when their storages are freed, only this trace is notified.
        """
        other = AllocationTrace()
        other.events, other.part, other.layer, other.stage = list(self.events), self.part, self.layer, self.stage
        other._blocks, other._weight_layers = dict(self._blocks), dict(self._weight_layers)
        other._copied_from = dict(self._copied_from)
        return other

    def _running_stage(self) -> str:
        if not compat.in_backward_pass():
            return self.stage
        self.stage = "optimizer"
        return "recompute" if compat.in_recomputation() else "backward"

    def _detect_layer(self, function: Any, args: tuple) -> None:
        """Set the running layer from the weights that an operator is given."""
        if function.__name__.startswith("_foreach"):  # works on all layers at once
            self.layer = OUTSIDE
        for argument in args:
            if isinstance(argument, torch.Tensor):
                layer = self._weight_layers.get(compat.storage_id(argument))
                if layer is not None:
                    self.layer = layer
                    return

    def _record(self, tensor: torch.Tensor, part: str, original: Any = None, stage: str | None = None) -> None:
        """Append the allocation of a tensor's storage, and later its free; nothing if it is known already, or empty.

        original: what it may be a copy of. stage: as in `allocate`.
        """
        storage = tensor.untyped_storage()
        address = compat.storage_id(tensor)
        if address in self._blocks or not storage.nbytes():
            return
        if self.layer == UNKNOWN and isinstance(original, torch.Tensor):
            self._copied_from[len(self.events)] = self._blocks.get(compat.storage_id(original))
        self._blocks[address] = self.allocate(storage.nbytes(), part, stage)
        weakref.finalize(storage, self._storage_freed, address).atexit = False

    def _storage_freed(self, address: int) -> None:
        self.free(self._blocks.pop(address))
        self._weight_layers.pop(address, None)


def peak(events: Sequence[AllocationEvent]) -> tuple[int, dict[str, int]]:
    """The most bytes allocated at once, and the bytes by part at that moment."""
    allocated, most, at = 0, 0, -1
    for n, event in enumerate(events):
        allocated += -event.size if event.is_free else event.size  # inlined: called for every event of a deep network
        if allocated > most:
            most, at = allocated, n
    return most, bytes_by_part(events[: at + 1])


def bytes_by_part(events: Iterable[AllocationEvent]) -> dict[str, int]:
    """Bytes by part that are still allocated after these events; parts with none left out."""
    parts: dict[str, int] = {}
    for event in events:
        parts[event.part] = parts.get(event.part, 0) + event.change
    return {part: size for part, size in parts.items() if size}


@contextmanager
def booked_as(trace: AllocationTrace, part: str) -> Iterator[None]:
    """A context in which new storages are booked under `part`."""
    before, trace.part = trace.part, part
    try:
        yield
    finally:
        trace.part = before


def book_layer_stack(trace: AllocationTrace, stack: nn.Module) -> list[RemovableHandle]:
    """Book what a stack of layers makes as activations, and what comes after it as the loss; returns the hooks."""

    def before(*_: Any) -> None:
        trace.part = "activations"

    def after(*_: Any) -> None:
        trace.part = "loss"

    return [stack.register_forward_pre_hook(before, with_kwargs=True), stack.register_forward_hook(after)]


def _infer_layer(event: AllocationEvent, earlier: Sequence[AllocationEvent]) -> int:
    """The layer of an event that was assigned to none: of a free its allocation's, else that of the event before it."""
    if event.is_free and earlier[event.block].layer != OUTSIDE:
        return earlier[event.block].layer
    return earlier[-1].layer if earlier else OUTSIDE
