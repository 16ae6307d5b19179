"""The trained weights with the lowest held-out loss so far, kept in one file of the run's folder.

The file knows its step and loss by itself, so that it fits any checkpoint of the run: steps that are repeated after a
crash find the same best weights again.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from playground.model.weights import unpacking_problems
from playground.settings import raise_all
from playground.train.checkpoint import UNREADABLE, unreadable, write_whole
from playground.train.trainer import Trainer

NAME = "best.pt"


@dataclass(frozen=True)
class Best:
    """The step after which the held-out loss (mean nats a labelled token) was lowest."""

    step: int
    loss: float


def save(trainer: Trainer, loss: float, path: Path) -> None:
    """Write the weights of the trainer's step, in place of those before. Raises OSError or RuntimeError (disk full)."""
    copies = [copy.detach().cpu() for copy in trainer.optimizer.copies]
    write_whole({"step": trainer.step, "loss": loss, "copies": copies}, path)


def read(path: Path) -> Best | None:
    """What the file holds; None where there is none. Raises PlaygroundError if it can't be read."""
    if not path.is_file():
        return None
    state = _load(path)
    return Best(state["step"], state["loss"])


def restore(trainer: Trainer, path: Path) -> None:
    """Give the trainer's model the weights in the file. Raises PlaygroundError if it can't be read or doesn't fit."""
    try:
        trainer.optimizer.load_copies(_load(path)["copies"])
    except (RuntimeError, ValueError) as error:
        raise unreadable(path, error) from error


def _load(path: Path) -> dict:
    try:
        raise_all(list(unpacking_problems(path)))
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not {"step", "loss", "copies"} <= state.keys():
            raise ValueError("not a file of best weights")
        return state
    except UNREADABLE as error:
        raise unreadable(path, error) from error
