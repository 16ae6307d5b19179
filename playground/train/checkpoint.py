"""What a stopped fine-tune needs to go on exactly where it was: one file beside the run's events."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from playground.data.batch import Example
from playground.errors import problem
from playground.train.checkpointing import CheckpointPolicy
from playground.train.loop import Trainer

NAME = "checkpoint.pt"


def save(trainer: Trainer, examples: Sequence[Example], path: Path) -> None:
    """Write step, optimizer, random state and the dial, whole or not at all."""
    state = {
        "step": trainer.step,
        "tokens": trainer.tokens,
        "lesson": _lesson(examples),
        "dial": (trainer.plan.policy.checkpointing, trainer.plan.policy.tokens),
        "optimizer": trainer.optimizer.state(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if trainer.batcher.device == "cuda" else [],
    }
    fresh = path.with_suffix(".partial")
    try:
        torch.save(state, fresh)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def restore(trainer: Trainer, examples: Sequence[Example], path: Path) -> None:
    """Take the trainer to where the file was written. Raises PlaygroundError if it can't be read, or is of other rows or settings."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["lesson"] != _lesson(examples):
            raise ValueError("the rows are not the same any more")
        trainer.optimizer.load_state(state["optimizer"])
        trainer.step, trainer.tokens = state["step"], state["tokens"]
        trainer.plan.policy = CheckpointPolicy(*state["dial"])  # another one would round differently
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and trainer.batcher.device == "cuda":
            torch.cuda.set_rng_state_all(state["random_cuda"][: torch.cuda.device_count()])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError) as error:
        raise problem("error.checkpoint", run=path.parent.name, detail=str(error).split("\n")[0][:200]) from error


def _lesson(examples: Sequence[Example]) -> str:
    """A digest of the rows as tokens."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.ids, example.trained_from)).encode())
    return digest.hexdigest()
