"""Train and run a model that is larger than the GPU: frozen layers whose weights wait elsewhere.

A streamed layer's weights lie in one block: of page-locked main memory (`MainMemory`), or split over the processes that
train together, each of which holds a share of its bytes (model/shares.py). Before the layer computes, forward or
backward, they are copied into one of a few buffers on the device, on a stream of their own, while the layers before it
compute; nothing is copied back, because they never change. A layer always gets the same buffer (model/copy_order.py),
and its tensors point there for good: what autograd has kept from the forward pass is valid again in the backward pass,
once the buffer holds the layer again. So neither the layers' code nor their gradients know of it, and nothing is
allocated.

Copies and computing wait for each other by events: a buffer is filled once the layer that was there has computed, and a
layer computes once its buffer is filled. The time that the device waits for a copy is its stall.
"""

import time
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from playground import compat
from playground.errors import problem
from playground.memory.constants import aligned
from playground.memory.page_locked import NotLocked, locked_block, unlock
from playground.model.copy_order import BUFFERS, CopyOrder

# Bytes from which a tensor is streamed: quantization's code books, which all layers share, are smaller.
LEAST_BYTES = 2048


def streamed_numbers(count: int, layers: int) -> list[int]:
    """Which of a model's layers are streamed: `count` of them, spread evenly, so that others compute during a copy."""
    return [(n + 1) * layers // count - 1 for n in range(count)] if count else []


def streamable_tensors(layer: nn.Module, shared: AbstractSet[int] = frozenset()) -> Iterator[Tensor]:
    """A frozen layer's large tensors: its weights, and what a quantized weight carries with it.

    shared: ids of parameters that other modules use too, which stay on the device.
    """
    for parameter in layer.parameters():
        if parameter.requires_grad or id(parameter) in shared:
            continue
        for tensor in (parameter, *compat.quantization_constants(parameter), getattr(parameter, "CB", None)):
            if tensor is not None and tensor.untyped_storage().nbytes() >= LEAST_BYTES:
                yield tensor


def shared_parameters(model: nn.Module) -> set[int]:
    """Ids of the parameters that a model uses under several names."""
    counts = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return {key for key, count in counts.items() if count > 1}


class Waiting(Protocol):
    """Where the blocks of streamed layers wait. bytes: of what waits in this process."""

    bytes: int

    def block(self, size: int) -> Tensor:
        """A block of at least `size` bytes to write a layer's weights to."""

    def keep(self, block: Tensor) -> None:
        """Keep what was written to the block, as the next layer's."""

    def copy(self, position: int, target: Tensor) -> None:
        """Copy the layer's block to the device, on the current stream there. target: as many bytes."""

    def close(self) -> None:
        """All layers are kept."""


class MainMemory:
    """Blocks of main memory, page-locked where a GPU copies from them."""

    def __init__(self, locks: bool):
        self.blocks: list[Tensor] = []
        self.bytes, self._locks = 0, locks

    def block(self, size: int) -> Tensor:
        """Raises PlaygroundError where main memory is used up, or can't be locked."""
        try:
            return locked_block(size, self._locks)
        except MemoryError as error:
            raise problem("error.streamed_memory", need_bytes=size, before_bytes=self.bytes) from error
        except NotLocked as error:
            raise problem("error.streamed_locked", need_bytes=size, before_bytes=self.bytes) from error

    def keep(self, block: Tensor) -> None:
        self.blocks.append(block)
        self.bytes += block.numel()

    def copy(self, position: int, target: Tensor) -> None:
        target.copy_(self.blocks[position], non_blocking=True)

    def close(self) -> None:
        pass


class _Mark:
    """What an event of CUDA is to a copy, on a CPU: whether it is over."""

    def __init__(self, is_over: bool = False):
        self.is_over = is_over

    def query(self) -> bool:
        return self.is_over


@dataclass(frozen=True)
class _Copy:
    """A copy of a layer's weights into its buffer. began, ended: marks, or events on the device, which comes to them
    long after the program has asked for the copy.
    """

    position: int
    began: Any
    ended: Any


class StreamedLayers:
    """The streamed layers of a model, in the order in which they compute.

    `add` each while its weights are on any device, then `start`. layers: how many the model has; numbers: of those that
    are streamed; waiting: where their weights wait, None: in main memory; copied: bytes that were copied to the device
    so far.
    """

    def __init__(
        self, layers: Sequence[nn.Module], numbers: Sequence[int], device: str, waiting: Waiting | None = None
    ):
        self.layers, self.numbers, self.device = list(layers), list(numbers), device
        self.copied = 0
        self._sizes: list[int] = []  # of each layer's block
        self._places: list[list[tuple[Tensor, int]]] = []  # of each layer: its tensors, and where in the block
        self._buffers: list[Tensor] = []
        # by buffer: the last copy that the device has begun, and those that it will begin; replaced, never changed
        self._copies: list[tuple[_Copy, ...]] = [()] * BUFFERS
        self._order = CopyOrder(self.numbers, self._copy, self._wait)
        self._stalls: list[tuple[Any, Any]] = []
        self._stall_s = 0.0
        on_cuda = device.startswith("cuda")
        self._stream = torch.cuda.Stream() if on_cuda else None
        self.waiting: Waiting = waiting or MainMemory(on_cuda)
        if on_cuda and isinstance(self.waiting, MainMemory):
            weakref.finalize(self, unlock, self.waiting.blocks, self._stream).atexit = False

    @property
    def bytes(self) -> int:
        """Of the weights that wait in this process."""
        return self.waiting.bytes

    def add(self, layer: nn.Module, shared: AbstractSet[int] = frozenset()) -> None:
        """Move the next streamed layer's weights to where they wait; its other tensors stay.

        shared: as of `streamable_tensors`. Raises PlaygroundError where main memory is used up.
        """
        tensors = list(streamable_tensors(layer, shared))
        offsets: dict[int, int] = {}
        end = 0
        for tensor in tensors:
            storage = compat.storage_id(tensor)
            if storage not in offsets:
                offsets[storage] = end
                end += aligned(tensor.untyped_storage().nbytes())
        block = self.waiting.block(end)
        places = []
        for tensor in tensors:
            start = offsets[compat.storage_id(tensor)] + int(tensor.storage_offset()) * tensor.itemsize
            _view(block, tensor, start).copy_(tensor.detach())
            places.append((tensor, start))
        self.waiting.keep(block)
        self._sizes.append(block.numel())
        self._places.append(places)
        for tensor, start in places:  # frees what they took
            tensor.data = _view(block, tensor, start)

    def start(self) -> None:
        """Make the buffers, point the layers' tensors there, and have them filled as the layers compute."""
        size = max(self._sizes)
        self._buffers = [torch.empty(size, dtype=torch.uint8, device=self.device) for _ in range(BUFFERS)]
        for position, places in enumerate(self._places):
            buffer = self._buffers[position % BUFFERS]
            for tensor, start in places:
                tensor.data = _view(buffer, tensor, start)
            if self._stream:
                buffer.record_stream(self._stream)  # not reused before the last copy into it is done
        self.waiting.close()
        for number, layer in enumerate(self.layers):
            layer.register_forward_pre_hook(lambda *_, number=number: self._order.before_forward(number))
            layer.register_forward_hook(lambda *given, number=number: self._after_forward(number, given[-1]))

    def take_stall(self) -> float:
        """Seconds that the device has waited for copies since the last call, as far as they are over."""
        while self._stalls and self._stalls[0][1].query():
            before, after = self._stalls.pop(0)
            self._stall_s += before.elapsed_time(after) / 1000
        seconds, self._stall_s = self._stall_s, 0.0
        return seconds

    def states(self) -> dict[str, list[int]]:
        """The numbers of the layers whose weights are in a buffer now, "ready", and of those on their way, "copying".

        As the device has it, which is behind the program. Any thread may ask while another one computes.
        """
        found: dict[str, list[int]] = {"ready": [], "copying": []}
        for copies in list(self._copies):
            begun = next((copy for copy in reversed(copies) if copy.began.query()), None)
            if begun:
                found["ready" if begun.ended.query() else "copying"].append(self.numbers[begun.position])
        return {state: sorted(numbers) for state, numbers in found.items()}

    def _after_forward(self, number: int, output: Any) -> None:
        self._order.after_forward(number, backward_follows=torch.is_grad_enabled())
        hidden = output[0] if isinstance(output, tuple) else output
        if isinstance(hidden, Tensor) and hidden.requires_grad:
            # called before anything of the layer's backward pass, recomputation included
            hidden.register_hook(lambda _: self._order.before_backward(number))

    def _copy(self, position: int) -> None:
        """Begin to copy a layer's weights into its buffer. What is there must have computed."""
        target = self._buffers[position % BUFFERS][: self._sizes[position]]
        self.copied += target.numel()
        if self._stream is None:
            copy = _Copy(position, _Mark(is_over=True), _Mark())
            self._note(copy)
            began = time.perf_counter()
            self.waiting.copy(position, target)
            self._stall_s += time.perf_counter() - began
            copy.ended.is_over = True
            return
        copy = _Copy(position, torch.cuda.Event(), torch.cuda.Event())
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            copy.began.record(self._stream)
            self.waiting.copy(position, target)
            copy.ended.record(self._stream)
        self._note(copy)  # once its events are recorded: those that aren't count as over

    def _note(self, copy: _Copy) -> None:
        """Add a copy to those of its buffer, and forget those before the last one that the device has begun."""
        slot = copy.position % BUFFERS
        copies = self._copies[slot]
        while len(copies) > 1 and copies[1].began.query():
            copies = copies[1:]
        self._copies[slot] = (*copies, copy)

    def _wait(self, position: int) -> None:
        ended = self._copies[position % BUFFERS][-1].ended
        if ended.query():
            return
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream()
        before.record(stream)
        stream.wait_event(ended)
        after.record(stream)
        self._stalls.append((before, after))


def _view(block: Tensor, tensor: Tensor, start: int) -> Tensor:
    """A block's bytes from `start` on as a tensor of another one's type and shape."""
    part = block[start:].view(tensor.dtype)
    return part.as_strided(tensor.shape, tensor.stride(), part.storage_offset())
