"""Save and restore a stopped fine-tune, so that it continues exactly where it was: one file in the run's folder."""

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
    partial = path.with_suffix(".partial")
    try:
        torch.save(state, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def restore(trainer: Trainer, examples: Sequence[Example], path: Path) -> None:
    """Bring a trainer to the state in the file.

    Raises PlaygroundError if the file can't be read, or was written for other examples or settings.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["lesson"] != _digest(examples):
            raise ValueError("the rows are not the same any more")
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
