"""Save and restore an unfinished fine-tune, so that it continues exactly where it was: one file in the run's folder."""

import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch

from playground.data.batch import Example
from playground.errors import PlaygroundError, problem
from playground.model.weights import unpacking_problems
from playground.settings import raise_all
from playground.settings.validate import MOST_STEPS
from playground.train.checkpointing import CheckpointPolicy
from playground.train.trainer import Trainer

# What reading a damaged file raises.
UNREADABLE = (PlaygroundError, OSError, RuntimeError, ValueError, AttributeError, EOFError, UnpicklingError)

NAME = "checkpoint.pt"
AUTO_SECONDS = 5.0  # between two checkpoints that nobody has asked for, at least
AUTO_SHARE = 0.008  # of the time may be spent on writing them
DISK_SPEED = 100e6  # bytes a second, until the first one was measured
DISK_SHARE = 0.25  # of the free space that one may take which nobody has asked for: two lie there while it is replaced


class CheckpointTimer:
    """When the next checkpoint is due: every so many steps or, automatically, so that writing costs AUTO_SHARE.

    How long the last one took decides when the next one is due. every: steps between two; 0: automatically, in a
    folder with room for them; lacks_room: without it, none are written. size: bytes of one, about.
    """

    def __init__(self, every: int, size: int, free: int, clock: Callable[[], float] = time.monotonic):
        """free: bytes on the disk."""
        self._every, self._automatic, self._clock = every, size <= DISK_SHARE * free, clock
        self.lacks_room = not every and not self._automatic
        self._last, self._cost = clock(), size / DISK_SPEED

    def is_due(self, step: int) -> bool:
        """Whether to write one after this step."""
        if self._every:
            return step % self._every == 0
        return self._automatic and self._clock() - self._last >= max(AUTO_SECONDS, self._cost / AUTO_SHARE)

    def written(self, seconds: float) -> None:
        """Note that one was written just now, in that many seconds."""
        self._last, self._cost = self._clock(), seconds


def save(trainer: Trainer, examples: Sequence[Example], path: Path) -> None:
    """Write step, optimizer, random state and checkpointing policy to a file, completely or not at all.

    In the middle of a step, the state after the one before is written; any thread may call it. The keys are those of
    version 0.1, so that its checkpoints can be restored: "lesson" is a digest of the examples, "dial" the policy.
    """
    policy = trainer.plan.policy
    trainer.rows_digest = trainer.rows_digest or _digest(examples)
    with trainer.changing:
        if not trainer.random:
            trainer.note_random_state()
        state = {
            "step": trainer.step,
            "tokens": trainer.tokens,
            "lesson": trainer.rows_digest,
            "dial": (policy.checkpointing, policy.tokens),
            "optimizer": trainer.optimizer.state(),
            **trainer.random,
        }
        write_whole(state, path)


def free_bytes(folder: Path) -> int:
    """Bytes that are free for checkpoints in a folder; 0 where that can't be found out."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def size_of(trainer: Trainer) -> int:
    """Bytes of a checkpoint, about: the trained parameters and AdamW's two averages."""
    return 3 * trained_bytes(trainer)


def trained_bytes(trainer: Trainer) -> int:
    """Bytes of the trained parameters: what is saved of them at the end takes no more."""
    return sum(copy.nbytes for copy in trainer.optimizer.copies)


def write_whole(state: dict, path: Path) -> None:
    """Write a file so that a crash at any moment leaves the one before. Raises OSError with the file's name."""
    partial = path.with_suffix(".partial")
    try:
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch's own, for a full disk
        code = getattr(error, "errno", None) or errno.ENOSPC
        raise OSError(code, os.strerror(code), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def restore(trainer: Trainer, examples: Sequence[Example], path: Path) -> None:
    """Bring a trainer to the state in the file.

    Raises PlaygroundError if the file can't be read, or was written for other examples or settings.
    """
    try:
        raise_all(list(unpacking_problems(path)))
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["lesson"] != _digest(examples):
            raise ValueError("the rows are not the same any more")
        counts = (state["step"], state["tokens"])
        if not all(type(count) is int and 0 <= count < 2**63 for count in counts) or counts[0] > MOST_STEPS:
            raise ValueError(f"step {counts[0]}, {counts[1]} tokens")
        trainer.optimizer.load_state(state["optimizer"])
        trainer.step, trainer.tokens = state["step"], state["tokens"]
        trainer.plan.policy = CheckpointPolicy(*state["dial"])  # another one would round differently
        _restore_random_state(state, trainer)
    except (*UNREADABLE, KeyError, TypeError) as error:
        raise unreadable(path, error) from error


def _restore_random_state(state: dict, trainer: Trainer) -> None:
    """Draw on from where the fine-tune was. Several processes begin anew, each elsewhere: one of them wrote its state.

    So with dropout, only a fine-tune of one process goes on exactly as it would have.
    """
    if trainer.team.size > 1:
        torch.manual_seed(trainer.team.size * state["step"] + trainer.team.rank)
        return
    torch.set_rng_state(state["random"])
    if state["random_cuda"] and trainer.batcher.device == "cuda":
        torch.cuda.set_rng_state_all(state["random_cuda"][: torch.cuda.device_count()])


def unreadable(path: Path, error: Exception) -> PlaygroundError:
    """What is wrong with a checkpoint's file, and what goes on without it."""
    detail = str(error).split("\n")[0].split(". ")[0].replace(str(path), path.name).rstrip(".")
    return problem("error.checkpoint", run=path.parent.name, file=path.name, detail=detail[:200])


def _digest(examples: Sequence[Example]) -> str:
    """SHA-256 of the examples as tokens."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.ids, example.trained_from, *example.masked)).encode())
    return digest.hexdigest()
