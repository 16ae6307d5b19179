"""Save and restore an unfinished fine-tune, so that it continues exactly where it was: one file in the run's folder."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from playground.data.batch import Example
from playground.errors import problem
from playground.model.weights import unpacking_problems
from playground.settings import raise_all
from playground.settings.validate import MOST_STEPS
from playground.train.checkpointing import CheckpointPolicy
from playground.train.trainer import Trainer

NAME = "checkpoint.pt"
AUTO_SECONDS = 15.0  # between two checkpoints that nobody has asked for, at least
AUTO_SHARE = 0.02  # of the time may be spent on writing them
DISK_SPEED = 100e6  # bytes a second, until the first one was measured


class CheckpointTimer:
    """When the next checkpoint is due: every so many steps or, automatically, so that writing costs AUTO_SHARE.

    every: steps between two; 0: automatically where `automatic`, else never. size: bytes of one, about.
    """

    def __init__(self, every: int, automatic: bool, size: int, clock: Callable[[], float] = time.monotonic):
        self._every, self._automatic, self._clock = every, automatic, clock
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

    The keys are those of version 0.1, so that its checkpoints can be restored: "lesson" is a digest of the examples,
    "dial" the policy.
    """
    policy = trainer.plan.policy
    state = {
        "step": trainer.step,
        "tokens": trainer.tokens,
        "lesson": _digest(examples),
        "dial": (policy.checkpointing, policy.tokens),
        "optimizer": trainer.optimizer.state(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if trainer.batcher.device == "cuda" else [],
    }
    write_whole(state, path)


def size_of(trainer: Trainer) -> int:
    """Bytes of a checkpoint, about: the trained parameters and AdamW's two averages."""
    return 3 * sum(copy.nbytes for copy in trainer.optimizer.copies)


def write_whole(state: dict, path: Path) -> None:
    """Write a file so that a crash at any moment leaves the one before. Raises OSError or RuntimeError (disk full)."""
    partial = path.with_suffix(".partial")
    try:
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
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
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and trainer.batcher.device == "cuda":
            torch.cuda.set_rng_state_all(state["random_cuda"][: torch.cuda.device_count()])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError) as error:
        raise problem("error.checkpoint", run=path.parent.name, detail=str(error).split("\n")[0][:200]) from error


def _digest(examples: Sequence[Example]) -> str:
    """SHA-256 of the examples as tokens."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.ids, example.trained_from, *example.masked)).encode())
    return digest.hexdigest()
