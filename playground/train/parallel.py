"""The processes that train together, by accelerate: one, as everywhere else, or those that `accelerate launch` started.

Each process computes its share of every step's rows. Adapters are the same everywhere, so their gradients are summed
once a step, and every process takes the same step. Under FSDP2 the frozen weights are split over the processes, or wait
in main memory, and are gathered layer by layer; adapters stay whole. assets/accelerate/ has a configuration for each.

`accelerate launch` says all that through the environment. Without it, accelerate isn't touched.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta

import torch
from torch import distributed, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from playground.errors import Problem
from playground.settings import Settings, raise_all

PATIENCE = timedelta(hours=2)  # how long a process waits for another: as long as one may download a model for all
MESSAGE = 2**26  # numbers that are summed in one message at most: what a message needs besides is a copy of it
PARTING = 3  # seconds for the main thread to tell its own reason and to end, where all processes fail for the same one

LOST = (  # what gloo and NCCL say when a process at the other end is gone
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "connection was closed",
    "remote process exited",
    "connection refused",
    "failed to recv",
    "failed to send",
    "nccl error",
    "nccl communicator was aborted",
    "socket timeout",
    "timed out waiting",
)


class Team:
    """One process of `size`, number `rank`; only rank 0 is `main`, which writes and saves.

    device: "cpu" or "cuda" (then this process's own card is torch's current one), where batches go. load_device: where
    weights are loaded. sharded: whether weights are split (FSDP2), which one process alone may ask for too, to keep
    them in main memory. accelerator: accelerate's, or None for a single process that splits nothing.
    """

    def __init__(self, device: str):
        self.size, self.rank, self._here = _number("WORLD_SIZE", 1), _number("RANK", 0), _number("LOCAL_WORLD_SIZE", 1)
        self.main, self.device = self.rank == 0, device
        self.sharded, self._deepspeed = _flag("ACCELERATE_USE_FSDP"), _flag("ACCELERATE_USE_DEEPSPEED")
        several = self.size > 1 or self.sharded
        self.accelerator = _accelerator(device) if several and not self._deepspeed else None
        own = (
            f"cuda:{torch.cuda.current_device()}" if several and device == "cuda" else device
        )  # "cuda" alone is card 0 to some readers
        self.load_device = "cpu" if self.sharded else own
        self._telling, self._told, self._watching = threading.Lock(), False, False

    def check(self, settings: Settings) -> None:
        """Raise PlaygroundError with everything that these processes can't do with these settings."""
        train, bits, cards = settings.train, settings.load.bits, torch.cuda.device_count()
        each = (train.micro_batch_size or 1) * self.size
        checks = [
            (self._deepspeed, "error.deepspeed", {}),
            (
                self.size > 1 and self.device == "cuda" and self._here > cards,
                "error.processes",
                {"processes": self._here, "devices": cards},
            ),
            (
                self.size > 1 and train.batch_size % each,
                "error.accumulation",
                {"batch": train.batch_size, "micro_batch": train.micro_batch_size or 1, "processes": self.size},
            ),
            (self.sharded and bits in (4, 8), "error.sharded_bits", {"bits": bits}),
            (self.sharded and train.method == "full", "error.sharded_full", {}),
        ]
        raise_all([Problem(key, values) for wrong, key, values in checks if wrong])

    # --- work shared out ---

    def share(self, rows: Sequence) -> list:
        """This process's rows of a step; none for some where an epoch's last step has fewer rows than there are processes."""
        return list(rows[self.rank :: self.size])

    def pad_micro_batches(self, parts: Iterable[list], spare: list) -> list[tuple[list, int]]:
        """This process's micro-batches with their weight 1, and `spare` with weight 0 where others have more of them.

        Every process has gradients to add then, and, where weights are split, gathers them as often as all the others:
        they would wait for it. spare: a micro-batch of one row.
        """
        parts = list(parts)
        most = max(1, len(parts))
        if self.sharded and self.size > 1:
            most = int(self._reduced([most], distributed.ReduceOp.MAX)[0])
        return [(part, 1) for part in parts] + [(spare, 0)] * (most - len(parts))

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Add up each tensor over all processes, in place; small ones go together. The same shapes everywhere."""
        if self.size == 1:
            return
        for message in _messages(tensors):
            flat = torch.cat([t.reshape(-1) for t in message])
            distributed.all_reduce(flat)
            for tensor, part in zip(message, flat.split([t.numel() for t in message])):
                tensor.copy_(part.view_as(tensor))

    def total(self, *numbers: float) -> list[float]:
        """Numbers summed over all processes."""
        return list(numbers) if self.size == 1 else self._reduced(numbers, distributed.ReduceOp.SUM)

    def any(self, so: bool) -> bool:
        """Whether it is so in any process: all then do the same, be it to stop."""
        return self.total(float(so))[0] > 0

    def turns(self) -> contextlib.AbstractContextManager:
        """Within it, one process of each machine goes first and the others after it: what it downloads they find."""
        return (
            self.accelerator.local_main_process_first()
            if self.size > 1 and self.accelerator
            else contextlib.nullcontext()
        )

    def _reduced(self, numbers: Sequence[float], how) -> list[float]:
        loaded = torch.tensor(numbers, dtype=torch.float64, device=self.accelerator.device)
        distributed.all_reduce(loaded, op=how)
        return loaded.tolist()

    # --- weights split ---

    def split(self, loss_module: nn.Module) -> nn.Module:
        """Under FSDP2, `loss_of` with its frozen weights split over the processes; else as it was.

        Split layer by layer: a layer's weights are gathered right before it computes, forward and backward, and freed
        after it. What is trained, and vectors (norms, biases), which are small, stay whole on the computing device.

        By torch's own function instead of `accelerator.prepare`, which wants an optimizer along with the model, turns
        what is trained into float32, and would split the adapters too: a gathering more for some kilobytes a layer.
        """
        if not self.sharded:
            return loss_module
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        device = self.accelerator.device
        whole = {p for p in loss_module.parameters() if p.requires_grad or p.ndim < 2}
        for parameter in whole:
            parameter.data = parameter.data.to(device)
        offload = _flag("FSDP_OFFLOAD_PARAMS")
        how = {
            "mesh": init_device_mesh(device.type, (self.size,)),
            "ignored_params": whole,
            "reshard_after_forward": True,
            "offload_policy": CPUOffloadPolicy(pin_memory=device.type == "cuda") if offload else OffloadPolicy(),
        }
        for module in loss_module.modules():
            if isinstance(module, GradientCheckpointingLayer):
                fully_shard(module, **how)
        fully_shard(loss_module, **how)  # the rest: embedding and head
        loss_module.set_unshard_in_backward(
            not loss_module.chunked
        )  # a chunked loss makes the head's gradient on the way forward
        return loss_module

    # --- the end ---

    def watch(self, tell: Callable[[], None]) -> None:
        """In the main process of several: call `tell` and exit with status 1 when the launcher says to end (SIGTERM).

        That is what it does as soon as another process has died. The main thread may hang in a collective then, where
        no handler of Python's ever runs; so the signal wakes a thread through a pipe. To be called by the main thread.
        """
        if self._watching or self.size == 1 or not self.main:
            return
        self._watching = True
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

        def wait() -> None:
            while os.read(reader, 1) != bytes([signal.SIGTERM]):
                pass
            time.sleep(PARTING)
            try:
                with self.telling() as first:
                    if first:
                        tell()
            finally:
                os._exit(1)

        threading.Thread(target=wait, name="watch", daemon=True).start()

    @contextlib.contextmanager
    def telling(self) -> Iterator[bool]:
        """Held while the run's end is written: true for the first to do so, the main thread or the one that watches."""
        with self._telling:
            first, self._told = not self._told, True
            yield first

    def leave(self) -> None:
        """Part with the other processes, which must all do so: after this each goes on, or ends, by itself."""
        if self._watching:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._watching = False
        if self.accelerator and distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()
        self.size = 1


def is_lost_peer(error: BaseException) -> bool:
    """Whether this is what a collective raises because another process is gone."""
    if isinstance(error, (distributed.DistBackendError, distributed.DistNetworkError)):
        return True
    text = str(error).lower()
    return type(error) is RuntimeError and any(words in text for words in LOST)


def _accelerator(device: str):
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # transformers would load zeros in all processes but one
    return Accelerator(
        cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)]
    )


def _messages(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Consecutive tensors, of together at most MESSAGE numbers; a larger one goes alone."""
    message: list[torch.Tensor] = []
    for tensor in tensors:
        if message and sum(t.numel() for t in message) + tensor.numel() > MESSAGE:
            yield message
            message = []
        message.append(tensor)
    if message:
        yield message


def _number(name: str, otherwise: int) -> int:
    return int(os.environ.get(name, otherwise))


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true")
