"""Train and run a model that is larger than the GPU: frozen layers whose weights wait in main memory.

A streamed layer's weights lie in one block of page-locked main memory. Before the layer computes, forward or backward,
they are copied into one of a few buffers on the device, on a stream of their own, while the layers before it compute;
nothing is copied back, because they never change. The n-th streamed layer always gets buffer n mod BUFFERS, and its
tensors point there for good: what autograd has kept from the forward pass is valid again in the backward pass, once the
buffer holds the layer again. So neither the layers' code nor their gradients know of it, and nothing is allocated.

Copies and computing wait for each other by events: a buffer is filled once the layer that was there has computed, and a
layer computes once its buffer is filled. The time that the device waits for a copy is its stall.
"""

import mmap
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor, nn

from playground import compat
from playground.errors import problem

BUFFERS = 2
ALIGNMENT = 512  # bytes; of each tensor in a layer's block, as CUDA's allocator aligns them
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


def layer_bytes(layer: nn.Module, shared: AbstractSet[int] = frozenset()) -> int:
    """Bytes of a layer's block in main memory, and of the part of a buffer that it takes."""
    storages = {compat.storage_id(t): t.untyped_storage().nbytes() for t in streamable_tensors(layer, shared)}
    return sum(map(_aligned, storages.values()))


def shared_parameters(model: nn.Module) -> set[int]:
    """Ids of the parameters that a model uses under several names."""
    counts = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return {key for key, count in counts.items() if count > 1}


class StreamedLayers:
    """The streamed layers of a model, in the order in which they compute.

    `add` each while its weights are on any device, then `start`. layers: how many the model has; numbers: of those that
    are streamed; bytes: of their weights in main memory; copied: bytes that were copied to the device so far.
    """

    def __init__(self, layers: Sequence[nn.Module], numbers: Sequence[int], device: str):
        self.layers, self.numbers, self.device = list(layers), list(numbers), device
        self.bytes = self.copied = 0
        self._blocks: list[Tensor] = []
        self._places: list[list[tuple[Tensor, int]]] = []  # of each layer: its tensors, and where in the block
        self._buffers: list[Tensor] = []
        self._holds: list[int | None] = [None] * BUFFERS  # position of the layer in each buffer
        self._positions = {number: position for position, number in enumerate(self.numbers)}
        self._last_backward: int | None = None
        self._stalls: list[tuple[Any, Any]] = []
        self._stall_s = 0.0
        on_cuda = device.startswith("cuda")
        self._stream = torch.cuda.Stream() if on_cuda else None
        self._filled = [torch.cuda.Event() for _ in range(BUFFERS)] if on_cuda else []
        if on_cuda:
            weakref.finalize(self, _release, self._blocks, self._stream).atexit = False

    def add(self, layer: nn.Module, shared: AbstractSet[int] = frozenset()) -> None:
        """Move the next streamed layer's weights to main memory; its other tensors go to the device.

        shared: as of `streamable_tensors`. Raises PlaygroundError where main memory is used up.
        """
        tensors = list(streamable_tensors(layer, shared))
        offsets: dict[int, int] = {}
        end = 0
        for tensor in tensors:
            storage = compat.storage_id(tensor)
            if storage not in offsets:
                offsets[storage] = end
                end += _aligned(tensor.untyped_storage().nbytes())
        block = _locked_block(end, self._stream is not None, self.bytes)
        places = []
        for tensor in tensors:
            start = offsets[compat.storage_id(tensor)] + int(tensor.storage_offset()) * tensor.itemsize
            _view(block, tensor, start).copy_(tensor.detach())
            places.append((tensor, start))
        self._blocks.append(block)
        self._places.append(places)
        self.bytes += end
        for tensor, start in places:  # frees what they took
            tensor.data = _view(block, tensor, start)

    def start(self) -> None:
        """Make the buffers, point the layers' tensors there, and have them filled as the layers compute."""
        size = max(block.numel() for block in self._blocks)
        self._buffers = [torch.empty(size, dtype=torch.uint8, device=self.device) for _ in range(BUFFERS)]
        for position, places in enumerate(self._places):
            buffer = self._buffers[position % BUFFERS]
            for tensor, start in places:
                tensor.data = _view(buffer, tensor, start)
            if self._stream:
                buffer.record_stream(self._stream)  # not reused before the last copy into it is done
        for number, layer in enumerate(self.layers):
            layer.register_forward_pre_hook(lambda *_, number=number: self._before_forward(number))
            layer.register_forward_hook(lambda *given, number=number: self._after_forward(number, given[-1]))

    def take_stall(self) -> float:
        """Seconds that the device has waited for copies since the last call, as far as they are over."""
        while self._stalls and self._stalls[0][1].query():
            before, after = self._stalls.pop(0)
            self._stall_s += before.elapsed_time(after) / 1000
        seconds, self._stall_s = self._stall_s, 0.0
        return seconds

    def _before_forward(self, number: int) -> None:
        self._last_backward = None
        position = self._positions.get(number)
        if position is not None:
            self._require(position, 1)

    def _after_forward(self, number: int, output: Any) -> None:
        position = self._positions.get(number)
        if position is not None:
            following = position + BUFFERS
            if following < len(self._blocks):
                self._fetch(following)
            elif not torch.is_grad_enabled():  # no backward pass will come: the next forward pass begins at the front
                self._fetch(position % BUFFERS)
        hidden = output[0] if isinstance(output, tuple) else output
        if isinstance(hidden, Tensor) and hidden.requires_grad:
            # called before anything of the layer's backward pass, recomputation included
            hidden.register_hook(lambda _: self._before_backward(number))

    def _before_backward(self, number: int) -> None:
        last, self._last_backward = self._last_backward, None
        if last is not None and last >= BUFFERS:  # the layer behind this one has computed
            self._fetch(last - BUFFERS)
        position = self._positions.get(number)
        if position is not None:
            self._require(position, -1)
            self._last_backward = position

    def _require(self, position: int, direction: int) -> None:
        """Have a layer's weights in its buffer when the device comes to what follows; those behind it under way."""
        self._fetch(position)
        self._wait(position % BUFFERS)
        for ahead in range(1, BUFFERS):
            following = position + direction * ahead
            if 0 <= following < len(self._blocks):
                self._fetch(following)

    def _fetch(self, position: int) -> None:
        """Begin to copy a layer's weights into its buffer, unless they are there. What is there must have computed."""
        slot = position % BUFFERS
        if self._holds[slot] == position:
            return
        block = self._blocks[position]
        target = self._buffers[slot][: block.numel()]
        self._holds[slot] = position
        self.copied += block.numel()
        if self._stream is None:
            began = time.perf_counter()
            target.copy_(block)
            self._stall_s += time.perf_counter() - began
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            target.copy_(block, non_blocking=True)
            self._filled[slot].record(self._stream)

    def _wait(self, slot: int) -> None:
        if self._stream is None or self._filled[slot].query():
            return
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream()
        before.record(stream)
        stream.wait_event(self._filled[slot])
        after.record(stream)
        self._stalls.append((before, after))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _view(block: Tensor, tensor: Tensor, start: int) -> Tensor:
    """A block's bytes from `start` on as a tensor of another one's type and shape."""
    part = block[start:].view(tensor.dtype)
    return part.as_strided(tensor.shape, tensor.stride(), part.storage_offset())


def _locked_block(size: int, lock: bool, before: int) -> Tensor:
    """A block of main memory of exactly that size, page-locked if `lock`.

    Not by torch's allocator, which rounds page-locked blocks up to powers of two. before: bytes of earlier blocks, for
    the error.
    """
    try:
        block = torch.frombuffer(mmap.mmap(-1, max(size, 1)), dtype=torch.uint8)[:size]
    except (OSError, ValueError, MemoryError) as error:
        raise problem("error.streamed_memory", need_bytes=size, before_bytes=before) from error
    if lock and size and not compat.page_lock(block):
        raise problem("error.streamed_locked", need_bytes=size, before_bytes=before)
    return block


def _release(blocks: list[Tensor], stream: Any) -> None:
    """Unlock main memory, once nothing is copied from it any more."""
    stream.synchronize()
    for block in blocks:
        if block.numel():
            compat.page_unlock(block)
