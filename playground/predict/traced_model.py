"""A network on the meta device together with the trace of what it allocates."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from playground.memory.ledger import tensors_by_part
from playground.predict import meta_model
from playground.predict.allocation_trace import OUTSIDE, AllocationEvent, AllocationTrace
from playground.predict.layer_extrapolation import extrapolate
from playground.predict.shallow_model import ShallowModel, repeated_layers
from playground.predict.streamed_events import (
    bytes_by_layer,
    receive_bytes,
    saved_bytes,
    with_split_ends,
    with_streamed_layers,
    without_streaming,
)
from playground.settings import Load
from playground.train.checkpointing import CheckpointPolicy


@dataclass(frozen=True)
class Target:
    """The device that is predicted for.

    device: "cuda" or "cpu". dtype: that the model computes in. capacity: bytes of the device's memory; 0: no limit.
    processes: how many train together, of which one is predicted. split: whether layers are split over them; for those
    of 16 and 32 bits, which FSDP2 itself splits, the same is taken: two gathered layers. waits: whether what is split
    waits in main memory.
    """

    device: str
    dtype: torch.dtype
    capacity: int = 0
    processes: int = 1
    split: bool = False
    waits: bool = False

    @property
    def shares(self) -> int:
        """Over how many processes layers are split; 0: they aren't."""
        return self.processes if self.split else 0


class MoreLayersNeeded(Exception):
    """The training plan checkpoints every `interval` layers, and the shallow network is too shallow for that."""

    def __init__(self, interval: int):
        super().__init__(interval)
        self.interval = interval


class TracedModel:
    """A network on the meta device and its allocation trace, which begins with the weights.

    shallow: the shallow network to build in place of the one of `config`; None: all layers are traced. with_weights:
    False for a trace that begins empty. weight_bytes: of the whole network's weights in the trace.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        load: Load,
        target: Target,
        shallow: ShallowModel | None,
        with_weights: bool = True,
    ):
        self.shallow = shallow
        load = without_streaming(load)
        self.loaded = meta_model.build_loaded(shallow.config if shallow else config, load, target.dtype, target.device)
        if shallow:
            shallow.check(self.loaded.model)
        self.trace = AllocationTrace()
        self.assign_layers()
        if with_weights:
            self.book_weights()
        self.trace.layer = OUTSIDE
        self.traced_share = 1.0  # of a step's tokens, those whose computation is in the trace
        events = self.trace.events_by_layer()
        self.weight_bytes = sum(event.size * self.multiplicity(event.layer) for event in events)
        self._bytes_by_layer = bytes_by_layer(events)

    def fork(self) -> "TracedModel":
        """The same network, without gradients, with a second trace that begins with this one's events."""
        other = copy.copy(self)
        other.trace = self.trace.fork()
        for parameter in self.loaded.model.parameters():
            parameter.grad = None
        return other

    def book_weights(self) -> None:
        """Book each of the model's tensors under its part of the ledger."""
        for part, tensor in tensors_by_part(self.loaded.model):
            self.trace.book(part, tensor)

    def assign_layers(self) -> None:
        """Assign the weights to their layers in the trace."""
        model, layers = self.loaded.model, repeated_layers(self.loaded.model)
        in_layers = {id(tensor) for layer in layers for _, tensor in tensors_by_part(layer)}
        others = (tensor for _, tensor in tensors_by_part(model) if id(tensor) not in in_layers)
        self.trace.assign_layer(OUTSIDE, others)
        for number, layer in enumerate(layers):
            self.trace.assign_layer(number, (tensor for _, tensor in tensors_by_part(layer)))

    def check_interval(self, policy: CheckpointPolicy) -> None:
        """Raise MoreLayersNeeded if the shallow network can't represent the deep one under this policy."""
        interval = checkpoint_interval(policy.checkpointing)
        if self.shallow and self.shallow.interval % interval:
            raise MoreLayersNeeded(interval)

    @property
    def depth(self) -> int:
        """How many repeated layers the whole network has."""
        return sum(self.shallow.multiplicities) if self.shallow else len(repeated_layers(self.loaded.model))

    def multiplicity(self, layer: int) -> int:
        """How many layers of the whole network a traced layer represents."""
        return self.shallow.multiplicities[layer] if self.shallow and layer >= 0 else 1

    def tensor_multiplicity(self, tensor: torch.Tensor) -> int:
        """How many tensors of the whole network a tensor of this one represents."""
        return self.multiplicity(self.trace.layer_of(tensor))

    def streaming(self, load: Load, shares: int) -> tuple[int, int]:
        """Bytes of the device that streamed or split layers save, and bytes that are copied to it for one pass."""
        counts = {layer: self.multiplicity(layer) for layer in self._bytes_by_layer}
        return saved_bytes(load, self._bytes_by_layer, counts, shares)

    def whole_events(self) -> list[AllocationEvent]:
        """The whole network's events. Raises LayersDiffer where a shallow network can't represent it."""
        if self.shallow is None:
            return self.trace.events_by_layer()
        return extrapolate(self.trace.events_by_layer(), self.shallow.regions)

    def placed_events(self, load: Load, target: Target, ends: Sequence[int] = ()) -> tuple[list[AllocationEvent], int]:
        """The whole network's events with streamed and split weights where they wait, and bytes in main memory.

        ends: bytes of the matrices outside of the layers that are split too, as of `with_split_ends`.
        """
        shares, waits = target.shares, target.waits and target.device != "cpu"
        events, waiting = with_streamed_layers(self.whole_events(), load, self.depth, shares, waits)
        if ends:
            events, also_waiting = with_split_ends(events, ends, shares, waits)
            waiting += also_waiting
        return events, waiting

    def receive_bytes(self, load: Load, target: Target, ends: Sequence[int]) -> int:
        """Bytes of the device beside those of the events: for what FSDP2 receives, if it splits the weights."""
        if not target.split or load.bits < 16:
            return 0
        return receive_bytes(self._bytes_by_layer, ends, target.shares, target.waits)


def checkpoint_interval(checkpointing: str) -> int:
    """Every how many layers one is treated apart under this setting: "2" checkpoints every second layer."""
    return int(checkpointing) if checkpointing.isdigit() else 1
