"""The trainer: the model, optimizer, batches and memory plan of a fine-tune, and how far it is."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from playground.model.streaming import StreamedLayers
from playground.train.batching import Batcher
from playground.train.checkpointing import CheckpointedLayers
from playground.train.loss import Loss
from playground.train.memory_policy import MemoryPlan
from playground.train.optimizer import Optimizer
from playground.train.parallel import Team
from playground.train.patches import patch_modules


@dataclass
class Trainer:
    """Everything that a fine-tune works with, and how far it is.

    streamed: layers whose weights wait in main memory, or split over processes. step: optimizer steps done; tokens:
    tokens in their rows, with prompts and without padding. random: the state of the random numbers after the last whole
    step, from which that step's successor is computed. changing: held while a step changes all of these, and while they
    are saved, which another thread may do in the middle of a step. rows_digest: of the examples, once a checkpoint has
    needed it.
    """

    loss_module: Loss
    optimizer: Optimizer
    batcher: Batcher
    layers: CheckpointedLayers
    plan: MemoryPlan
    team: Team
    streamed: StreamedLayers | None = None
    step: int = 0
    tokens: int = 0
    random: dict = field(default_factory=dict)
    changing: threading.Lock = field(default_factory=threading.Lock)
    rows_digest: str = ""

    def note_random_state(self) -> None:
        """Note the state of the random numbers, at the end of a step."""
        cuda = torch.cuda.get_rng_state_all() if self.batcher.device == "cuda" else []
        self.random = {"random": torch.get_rng_state(), "random_cuda": cuda}


@contextlib.contextmanager
def training_mode(trainer: Trainer, learning: bool) -> Iterator[None]:
    """The model as the loop computes it: memory-efficient modules, attention over packed rows, checkpointed layers.

    learning: with dropout, and with compiled layers where the plan has them.
    """
    trainer.loss_module.train(learning)
    with patch_modules(trainer.loss_module, trainer.batcher.model), trainer.batcher.attention():
        try:
            trainer.layers.set(trainer.plan.policy, learning and trainer.plan.compiled)
            yield
        finally:
            trainer.layers.restore()
            trainer.loss_module.eval()
