"""Prepare a trainer from a loaded model and encoded rows."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from playground.data.batch import Example
from playground.model import adapt
from playground.model.load import LoadedModel
from playground.settings import Settings
from playground.train.batching import Batcher
from playground.train.checkpointing import CheckpointedLayers
from playground.train.loss import Loss
from playground.train.memory_policy import choose_plan, count_once
from playground.train.optimizer import Optimizer
from playground.train.parallel import Team
from playground.train.trainer import Trainer


def prepare_trainer(
    loaded: LoadedModel,
    settings: Settings,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    team: Team,
    start: Path | None = None,
) -> Trainer:
    """Make the loaded model trainable and build its trainer.

    examples: rows to train on; held_out: rows to measure on; start: the folder of an adapter to continue, None for a
    new one. Raises PlaygroundError for settings that don't fit them.
    """
    make_trainable(loaded, settings, start)
    return build_trainer(loaded, settings, examples, held_out, team)


def make_trainable(loaded: LoadedModel, settings: Settings, start: Path | None = None) -> None:
    """Add a LoRA adapter to the loaded model, or let all its weights be trained in a full fine-tune.

    start: the folder of an adapter to continue; None for a new one.
    """
    if settings.train.method == "full":
        loaded.model.requires_grad_(True)
        return
    seed = settings.train.seed
    model: Any = (
        adapt.continue_lora(loaded.model, start, settings.lora.dropout, loaded.dtype, seed)
        if start
        else adapt.add_lora(loaded.model, settings.lora, loaded.dtype, seed)
    )
    loaded.model = model


def build_trainer(
    loaded: LoadedModel,
    settings: Settings,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    team: Team,
    free_bytes: int | None = None,
    multiplicity: Callable[[torch.Tensor], int] = count_once,
) -> Trainer:
    """The trainer of a model that is trainable already. free_bytes, multiplicity: as in `memory_policy.choose_plan`."""
    train = settings.train
    loss_module = team.shard_weights(Loss(loaded.model))
    batcher = Batcher(loss_module, [*examples, *held_out], loaded.tokenizer.pad_token_id or 0, team.device)
    optimizer = Optimizer(
        [(name, p) for name, p in loaded.model.named_parameters() if p.requires_grad],
        train.optimizer,
        copies=train.method != "full" or loaded.dtype == torch.float16,
        ratio=settings.lora.loraplus_lr_ratio,
    )
    layers = CheckpointedLayers(loaded.model)
    plan = choose_plan(loss_module, optimizer, batcher, layers, examples, train, free_bytes, multiplicity)
    plan.compiled = train.compile == "on" and not team.sharded
    if team.size > 1:
        torch.manual_seed(train.seed + team.rank)  # dropout differs between processes
    return Trainer(loss_module, optimizer, batcher, layers, plan, team)
