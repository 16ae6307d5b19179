"""AdamW whose gradients and moments wait in main memory: a full fine-tune keeps nothing but its weights on the GPU.

Each gradient is copied to page-locked main memory when the backward pass has computed it, on a separate stream, and
freed: at most PENDING gradients are on the GPU besides the one that is being computed. Where earlier micro-batches
left a gradient there, that is copied back first and the sum of both is kept. A step clips and updates the weights on
the GPU, a slice of a parameter at a time: gradient and moments are copied in, moments are copied out, and the copies of
neighbouring slices run beside each other.

These are the same operations on the same numbers, in the same types, as those of `Optimizer` without copies: the
weights are equal to the bit. DeepSpeed's setting of the same name keeps float32 copies of the weights in main memory
too, and updates them on the processor (Ren et al. 2021, arXiv 2101.06840).
"""

import contextlib
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from playground import compat
from playground.errors import problem
from playground.memory.page_locked import NotLocked, locked_block, unlock
from playground.settings import Train
from playground.train.optimizer import MAX_GRAD_NORM, Optimizer

PENDING = 4  # gradients on the GPU that are being copied out, while the next one is computed
SLICE_BYTES = 2**25  # of a parameter that are updated at a time
SLOTS = 2  # slices on the GPU: one is copied in while the other is copied out
MOMENTS = ("exp_avg", "exp_avg_sq")  # as torch names them in an optimizer's state
ROWS = 1 + len(MOMENTS)  # of each parameter's size in main memory, and in a slot: its gradient and its moments


def offloads(train: Train, device: str) -> bool:
    """Whether a fine-tune on this device keeps gradients and optimizer state in main memory.

    On a CPU they are there anyway, and `Optimizer` is used.
    """
    return train.offload_optimizer and train.method == "full" and device != "cpu"


def offloaded_bytes(weight_bytes: int) -> int:
    """Bytes of main memory that gradients and moments of so many bytes of trained weights take."""
    return ROWS * weight_bytes


@dataclass
class _Kept:
    """What main memory keeps of a parameter: the sum of this step's gradients and the moments, flat, in its type.

    steps: that have updated it.
    """

    gradient: Tensor
    moments: list[Tensor]
    steps: int = 0


class OffloadedOptimizer(Optimizer):
    """The interface of `Optimizer` for a full fine-tune; its `inner` has the learning rate and never any state.

    On the CPU, for tests, the same code copies within main memory. Raises PlaygroundError for float16, which needs
    float32 copies, and where main memory is used up or can't be locked.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]]):
        super().__init__(named, copies=False)
        if any(parameter.dtype == torch.float16 for parameter in self.parameters):
            raise problem("error.offload_float16")
        device = self.parameters[0].device.type
        on_cuda = device == "cuda"
        self._out, self._in = (torch.cuda.Stream() if on_cuda else None for _ in range(2))
        self._norms: list[Tensor | None] = [None] * len(self.parameters)  # of this step's gradients so far
        self._pending: deque[tuple[Tensor, Tensor | None, Any]] = deque()
        self._blocks: list[Tensor] = []
        self._kept = [] if device == "meta" else [self._keep(parameter, on_cuda) for parameter in self.parameters]
        if on_cuda:
            weakref.finalize(self, unlock, self._blocks, self._out, self._in).atexit = False

    def backward(self, loss: Tensor) -> None:
        """Compute the loss's gradients; each is added to this step's sum when it is complete."""
        hooks: list[Any] = [
            parameter.register_post_accumulate_grad_hook(partial(self._collect, number))
            for number, parameter in enumerate(self.parameters)
        ]
        try:
            loss.backward()
        finally:
            for hook in hooks:
                hook.remove()
        self._free_copied(0)

    def pending_bytes(self, multiplicity: Callable[[Tensor], int] = lambda tensor: 1) -> int:
        """Bytes on the device that a step takes besides activations: gradients, and sums that these are added to.

        The update comes when there are no activations.
        """
        left, size = PENDING + 1, 0
        for parameter in sorted(self.parameters, key=lambda parameter: -parameter.nbytes):
            count = min(left, multiplicity(parameter))
            left, size = left - count, size + 2 * count * parameter.nbytes
        return size

    def moment_bytes(self, copy: Tensor) -> int:
        """None on the device."""
        return 0

    def main_memory_bytes(self, multiplicity: Callable[[Tensor], int] = lambda tensor: 1) -> int:
        """Bytes of gradients and moments, which wait in main memory. multiplicity: as of `pending_bytes`."""
        return offloaded_bytes(sum(multiplicity(parameter) * parameter.nbytes for parameter in self.parameters))

    def gradients(self) -> list[Tensor]:
        """This step's gradients so far, in main memory; on the meta device none."""
        return [
            kept.gradient.view(parameter.shape)
            for kept, parameter, norm in zip(self._kept, self.parameters, self._norms)
            if norm is not None
        ]

    def drop_gradients(self) -> None:
        """Drop this step's gradients."""
        super().drop_gradients()
        self._free_copied(0)
        self._norms = [None] * len(self.parameters)

    def update_buffers(self) -> list[Tensor]:
        """The buffers on the device that slices are updated in."""
        size = min(SLICE_BYTES, max(parameter.nbytes for parameter in self.parameters))
        return [torch.empty(ROWS, size, dtype=torch.uint8, device=self.parameters[0].device) for _ in range(SLOTS)]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Clip the gradients, update the parameters, and drop the gradients."""
        self.inner.param_groups[0]["lr"] = lr
        norms = {number: norm for number, norm in enumerate(self._norms) if norm is not None}
        if norms:
            # as torch.nn.utils.clip_grad_norm_ has it
            total = torch.linalg.vector_norm(torch.stack(list(norms.values())))
            self._update(list(norms), (MAX_GRAD_NORM / (total + 1e-6)).clamp(max=1.0))
        self.drop_gradients()

    def state(self) -> dict:
        """Everything that `load_state` needs to continue exactly from here, as `Optimizer` has it."""
        self._synchronize()
        moments = {
            number: {
                "step": torch.tensor(float(kept.steps)),
                **{name: moment.view(parameter.shape) for name, moment in zip(MOMENTS, kept.moments)},
            }
            for number, (kept, parameter) in enumerate(zip(self._kept, self.parameters))
            if kept.steps
        }
        return super().state() | {"inner": self.inner.state_dict() | {"state": moments}}

    def load_state(self, state: dict) -> None:
        """Continue from a `state` of the same parameters. Raises ValueError if they differ."""
        self._synchronize()
        self.load_copies(state["copies"])
        for number, kept in enumerate(self._kept):
            saved = state["inner"]["state"].get(number)
            kept.steps = int(saved["step"]) if saved else 0
            for name, moment in zip(MOMENTS, kept.moments):
                moment.copy_(saved[name].flatten()) if saved else moment.zero_()

    def _keep(self, parameter: Tensor, lock: bool) -> _Kept:
        """Main memory for a parameter, which becomes contiguous."""
        parameter.data = parameter.data.contiguous()
        rows = []
        for _ in range(ROWS):
            size = parameter.nbytes
            try:
                self._blocks.append(locked_block(size, lock))
            except MemoryError as error:
                raise problem("error.offload_memory", need_bytes=size, before_bytes=self._locked_bytes()) from error
            except NotLocked as error:
                raise problem("error.offload_locked", need_bytes=size, before_bytes=self._locked_bytes()) from error
            rows.append(self._blocks[-1].view(parameter.dtype))
        return _Kept(rows[0], rows[1:])

    def _locked_bytes(self) -> int:
        return sum(block.nbytes for block in self._blocks)

    def _collect(self, number: int, parameter: Tensor) -> None:
        """Add a parameter's gradient to that in main memory, and free it once it is there."""
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        is_first, copied = self._norms[number] is None, None
        earlier = None if is_first else torch.empty_like(gradient)
        if gradient.is_meta:
            self._norms[number] = gradient.new_empty(())
        else:
            with _on(self._out):
                kept = self._kept[number].gradient.view(parameter.shape)
                if earlier is not None:
                    gradient.add_(earlier.copy_(kept, non_blocking=True))
                self._norms[number] = torch.nn.utils.get_total_norm([gradient])
                kept.copy_(gradient, non_blocking=True)
            copied = self._out.record_event() if self._out else None
        self._pending.append((gradient, earlier, copied))
        self._free_copied(PENDING)

    def _free_copied(self, most: int) -> None:
        """Free the oldest gradients that are being copied out, until `most` are left.

        What is computed from here on, which may get their memory, waits for their copies.
        """
        while len(self._pending) > most:
            *_, copied = self._pending.popleft()
            if copied is not None:
                torch.cuda.current_stream().wait_event(copied)

    def _update(self, numbers: Sequence[int], clip: Tensor) -> None:
        """Update these parameters with their gradients times `clip`."""
        buffers = cycle([(buffer, torch.cuda.Event() if self._out else None) for buffer in self.update_buffers()])
        if self._in is not None:
            self._in.wait_stream(torch.cuda.current_stream())
        for (number, start, end), (buffer, emptied) in zip(self._slices(numbers), buffers):
            kept, parameter = self._kept[number], self.parameters[number].view(-1)[start:end]
            waiting = [row[start:end] for row in (kept.gradient, *kept.moments)]
            present = [row[: parameter.nbytes].view(parameter.dtype) for row in buffer]
            if self._in is not None and emptied is not None:
                self._in.wait_event(emptied)
            with _on(self._in, after_computing=False):
                _copy(waiting, present)
            if self._in is not None:
                torch.cuda.current_stream().wait_stream(self._in)
            gradient, *moments = present
            compat.fused_adamw(parameter, gradient.mul_(clip), moments, kept.steps, self.inner.param_groups[0])
            with _on(self._out):
                _copy(moments, waiting[1:])
            if self._out is not None and emptied is not None:
                emptied.record(self._out)
        if self._out is not None:
            torch.cuda.current_stream().wait_stream(self._out)  # before the buffers are freed
        for number in numbers:
            self._kept[number].steps += 1

    def _slices(self, numbers: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        """(number of the parameter, first and last + 1 of its elements) of each slice."""
        for number in numbers:
            parameter = self.parameters[number]
            length = SLICE_BYTES // parameter.itemsize
            for start in range(0, parameter.numel(), length):
                yield number, start, min(start + length, parameter.numel())

    def _synchronize(self) -> None:
        """Wait until what was queued has reached main memory."""
        if self._out is not None:
            torch.cuda.synchronize()


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source, non_blocking=True)


def _on(stream: Any, after_computing: bool = True) -> Any:
    """A context on that stream, after what is queued for the GPU to compute; None: where there are no streams."""
    if stream is None:
        return contextlib.nullcontext()
    if after_computing:
        stream.wait_stream(torch.cuda.current_stream())
    return torch.cuda.stream(stream)
