"""Data-parallel training by accelerate: one process, or those that `accelerate launch` started.

Each process computes its share of every step's rows. Adapters are the same everywhere, so their gradients are summed
once a step, and every process takes the same step. Under FSDP2 the frozen weights are split over the processes, or wait
in main memory, and are gathered layer by layer; adapters stay whole. FSDP2 itself splits weights of 16 and 32 bits;
quantized ones are split alike, as bytes, while they are loaded (model/shares.py). assets/accelerate/ has a
configuration for each.

`accelerate launch` configures all that through environment variables. Without them, accelerate isn't imported.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from playground.data.batch import shares_of
from playground.errors import Problem
from playground.memory.file_pages import FilePages
from playground.model.shares import Shares
from playground.settings import Settings, raise_all
from playground.settings.limits import cpu_processes
from playground.train.loss import Loss
from playground.train.split_ends import split_ends

TIMEOUT = timedelta(hours=2)  # of a collective: as long as one process may download a model for all
LAUNCHED = ("WORLD_SIZE", "ACCELERATE_MIXED_PRECISION")  # set by torchrun, and by `accelerate launch` always
OFFLOADS = "FSDP_OFFLOAD_PARAMS"  # accelerate's variable: whether what is split waits in main memory
MESSAGE_NUMBERS = 2**26  # numbers that are summed in one message at most: a message needs a copy of them

LOST_PEER = (  # what gloo and NCCL say when the process at the other end is gone
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
    """One of the `size` processes that train together, with number `rank`. Rank 0 is `main`: it writes and saves.

    device: where batches go: "cpu" or "cuda" (then torch's current card is this process's own).
    load_device: where weights are loaded.
    sharded: whether weights are split (FSDP2), which one process alone may ask for too, to keep them in main memory.
    splits_bytes: whether they are quantized ones. accelerator: accelerate's, or None for a single process that splits
    nothing.
    """

    def __init__(self, device: str, bits: int = 16, launched: bool = True, shares: int = 0):
        """bits: of the frozen weights. launched: False for a process by itself, whatever it was launched with.

        shares: over how many processes quantized weights are split where only one is predicted.
        """
        self.size, self.rank = (_env_number("WORLD_SIZE", 1), _env_number("RANK", 0)) if launched else (1, 0)
        self._local_size = _env_number("LOCAL_WORLD_SIZE", 1)  # processes on this machine
        self.main, self.device = self.rank == 0, device
        self.sharded = launched and _env_flag("ACCELERATE_USE_FSDP")
        self._deepspeed = launched and _env_flag("ACCELERATE_USE_DEEPSPEED")
        self.splits_bytes = shares > 0 or (self.sharded and 0 < bits < 16)
        distributes = self.size > 1 or self.sharded
        self.accelerator = _accelerator(device) if distributes and not self._deepspeed else None
        self.load_device = device
        if self.splits_numbers:
            self.load_device = "cpu"
        elif distributes and device == "cuda":  # "cuda" alone is card 0 to some readers
            self.load_device = f"cuda:{torch.cuda.current_device()}"

    @classmethod
    def planned(cls, settings: Settings, device: str) -> "Team":
        """The team of the processes that the settings ask for, to be checked before they are started."""
        team = cls(device, settings.load.bits, launched=False)
        team.size = team._local_size = settings.train.num_processes
        team.sharded = settings.train.parallel == "fsdp2"
        team.splits_bytes = team.sharded and 0 < settings.load.bits < 16
        return team

    def check(self, settings: Settings) -> None:
        """Raise PlaygroundError where GPUs are missing, and with all `problems`."""
        cards = torch.cuda.device_count()
        missing = []
        if self.size > 1 and self.device == "cuda" and self._local_size > cards:
            missing = [Problem("error.processes", {"processes": self._local_size, "devices": cards})]
        raise_all([*missing, *self.problems(settings)])

    def problems(self, settings: Settings) -> list[Problem]:
        """Every setting that so many processes can't train with, whatever GPUs are here."""
        train, lora = settings.train, settings.lora
        reads_all = [
            name for name, is_used in (("init", lora.init != "default"), ("use_dora", lora.use_dora)) if is_used
        ]
        micro_batch = train.micro_batch_size or 1
        checks: list[tuple[Any, str, dict]] = [
            (self._deepspeed, "error.deepspeed", {}),
            (
                self.size > 1 and train.batch_size % (micro_batch * self.size),
                "error.accumulation",
                {"batch": train.batch_size, "micro_batch": micro_batch, "processes": self.size},
            ),
            (self.splits_bytes and self.offloads, "error.sharded_bits", {"bits": settings.load.bits}),
            (self.sharded and train.method == "full", "error.sharded_full", {}),
            (self.size > 1 and train.offload_optimizer, "error.offload_processes", {"processes": self.size}),
            (
                self.splits_bytes and train.method != "full" and reads_all,
                "error.split_start",
                {"fields": [f"lora.{name}" for name in reads_all]},
            ),
        ]
        return [Problem(key, values) for is_wrong, key, values in checks if is_wrong]

    def local_rows(self, rows: Sequence) -> list:
        """This process's rows of a step: for some processes none, if there are fewer rows than processes."""
        return shares_of(rows, self.size)[self.rank]

    def pad_micro_batches(self, parts: Iterable[list], spare: Sequence) -> list[tuple[Sequence, int]]:
        """This process's micro-batches with weight 1, and `spare` with weight 0 where others have more of them.

        Then every process has gradients to add and, where weights are split, gathers them as often as all the others,
        which would wait for it otherwise. spare: a micro-batch of one row.
        """
        padded: list[tuple[Sequence, int]] = [(part, 1) for part in parts]
        count = max(1, len(padded))
        if self.sharded and self.size > 1:
            count = int(self._reduce_numbers([count], distributed.ReduceOp.MAX)[0])
        return padded + [(spare, 0)] * (count - len(padded))

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over all processes, in place, small ones in one message. All processes have the same shapes."""
        if self.size == 1:
            return
        for message in _messages(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in message])
            distributed.all_reduce(flat)
            for tensor, part in zip(message, flat.split([tensor.numel() for tensor in message])):
                tensor.copy_(part.view_as(tensor))

    def sum_numbers(self, *numbers: float) -> list[float]:
        """Each number summed over all processes."""
        return list(numbers) if self.size == 1 else self._reduce_numbers(numbers, distributed.ReduceOp.SUM)

    def any(self, condition: bool) -> bool:
        """Whether the condition is true in any process, so that all do the same, such as to stop."""
        return self.sum_numbers(float(condition))[0] > 0

    def local_main_first(self) -> contextlib.AbstractContextManager:
        """One process of each machine runs the block first, the others after it: they find what it has downloaded."""
        if self.size > 1 and self.accelerator:
            return self.accelerator.local_main_process_first()
        return contextlib.nullcontext()

    def shares(self) -> Shares | None:
        """Where quantized weights go as they are loaded, if they are split."""
        return Shares(self.load_device, self.rank, self.size) if self.splits_bytes else None

    @property
    def offloads(self) -> bool:
        """Whether what is split waits in main memory."""
        return self.sharded and _env_flag(OFFLOADS)

    @property
    def splits_numbers(self) -> bool:
        """Whether weights are split by `shard_weights`."""
        return self.sharded and not self.splits_bytes

    def shard_weights(self, loss_module: Loss, pages: FilePages | None = None) -> Loss:
        """Under FSDP2, split the model's frozen weights over the processes, in place; of quantized ones, what is left.

        pages: of the files that matrices wait in, if they do.
        """
        if self.splits_bytes:
            split_ends(loss_module, self.rank, self.size)
        elif self.sharded:
            from playground.train.sharding import shard_frozen_weights

            shard_frozen_weights(loss_module, self._device, self.size, self.offloads, pages)
        return loss_module

    def leave(self) -> None:
        """Leave the process group, which all processes must do: after this each continues, or ends, by itself."""
        if self.accelerator and distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()
        self.size = 1

    @property
    def _device(self) -> torch.device:
        assert self.accelerator is not None
        return self.accelerator.device

    def _reduce_numbers(self, numbers: Sequence[float], operation: Any) -> list[float]:
        reduced = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        distributed.all_reduce(reduced, op=operation)
        return reduced.tolist()


def is_launched() -> bool:
    """Whether a launcher has started this process as one of several, or as one that splits its weights."""
    return any(name in os.environ for name in LAUNCHED)


def usable_processes(device: str) -> int:
    """How many processes can train together here: one a GPU; on the CPU one, unless a variable allows more."""
    return torch.cuda.device_count() if device == "cuda" else cpu_processes()


def is_lost_peer(error: BaseException) -> bool:
    """Whether this is the error of a collective whose other process is gone."""
    if isinstance(error, (distributed.DistBackendError, distributed.DistNetworkError)):
        return True
    text = str(error).lower()
    return type(error) is RuntimeError and any(words in text for words in LOST_PEER)


def _accelerator(device: str) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # transformers would load zeros in all processes but one
    return Accelerator(
        cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)]
    )


def _messages(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Group consecutive tensors into messages of at most MESSAGE_NUMBERS numbers; a larger tensor goes alone."""
    message: list[Tensor] = []
    for tensor in tensors:
        if message and sum(t.numel() for t in message) + tensor.numel() > MESSAGE_NUMBERS:
            yield message
            message = []
        message.append(tensor)
    if message:
        yield message


def _env_number(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


def _env_flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true")
