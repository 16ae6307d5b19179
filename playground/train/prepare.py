"""Prepare a trainer from a loaded model and encoded rows."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from playground.data.batch import Example
from playground.model import adapt, mapped_weights, saved_adapter
from playground.model.load import LoadedModel
from playground.model.streamed_load import check_modules_to_save
from playground.settings import Settings
from playground.train.batching import Batcher
from playground.train.checkpointing import CheckpointedLayers
from playground.train.loss import Loss
from playground.train.memory_policy import choose_plan, count_once
from playground.train.offloaded_optimizer import OffloadedOptimizer, offloads
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
    batching: str | None = None,
) -> Trainer:
    """Make the loaded model trainable and build its trainer.

    examples: rows to train on; held_out: rows to measure on; start: the folder of an adapter to continue, None for a
    new one; batching: the mode that `try_batching` found for these rows, None: it is tried here. Raises PlaygroundError
    for settings that don't fit them.
    """
    make_trainable(loaded, settings, start)
    return build_trainer(loaded, settings, examples, held_out, team, batching=batching)


def try_batching(loaded: LoadedModel, examples: Sequence[Example], held_out: Sequence[Example]) -> Batcher:
    """A batcher of a model without adapters, which tells how its rows will be batched: a new adapter adds nothing yet.

    So a prediction need not guess it: whether rows may be packed depends on the weights' rounding too.
    """
    pad = loaded.tokenizer.pad_token_id or 0
    return Batcher(Loss(loaded.model), [*examples, *held_out], pad, loaded.device)


def make_trainable(
    loaded: LoadedModel,
    settings: Settings,
    start: Path | None = None,
    on_progress: Callable[..., None] | None = None,
) -> None:
    """Add an adapter to the loaded model, or let all its weights be trained in a full fine-tune.

    start: the folder of an adapter to continue; None for a new one. on_progress: called with (done, total, unit) while
    start values are computed, as PiSSA's. Raises PlaygroundError for settings that don't fit the model.
    """
    if settings.train.method == "full":
        loaded.model.requires_grad_(True)
        return
    lora, seed = settings.lora, settings.train.seed
    if lora.modules_to_save or lora.init != "default":  # modules are copied, or weights decomposed
        mapped_weights.read(loaded.model)
    if layers := loaded.streamed or loaded.split:
        check_modules_to_save(layers, lora.modules_to_save)
    model: Any = (
        saved_adapter.continue_lora(loaded.model, start, lora, loaded.dtype, seed)
        if start
        else adapt.add_lora(loaded.model, lora, loaded.dtype, seed, on_progress)
    )
    model.eval()  # a new module begins in training mode, and what its dropout draws would disturb the trials to come
    loaded.model = model


def build_trainer(
    loaded: LoadedModel,
    settings: Settings,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    team: Team,
    free_bytes: int | None = None,
    multiplicity: Callable[[torch.Tensor], int] = count_once,
    batching: str | None = None,
    copied_bytes: int | None = None,
) -> Trainer:
    """The trainer of a model that is trainable already.

    free_bytes, multiplicity, copied_bytes: as in `memory_policy.choose_plan`, None: of this model; batching: as in
    `prepare_trainer`.
    """
    train = settings.train
    loss_module = team.shard_weights(Loss(loaded.model, not team.splits_numbers), loaded.pages)
    pad = loaded.tokenizer.pad_token_id or 0
    batcher = Batcher(loss_module, [*examples, *held_out], pad, team.device, batching)
    optimizer = _optimizer(loaded, settings, team.device)
    layers = CheckpointedLayers(loaded.model)
    if copied_bytes is None:
        copied_bytes = loaded.streamed.bytes if loaded.streamed else 0
    plan = choose_plan(
        loss_module, optimizer, batcher, layers, examples, train, free_bytes, multiplicity, team.size, copied_bytes
    )
    plan.compiled = train.compile == "on" and not team.sharded
    if team.size > 1:
        torch.manual_seed(train.seed + team.rank)  # dropout differs between processes
    return Trainer(loss_module, optimizer, batcher, layers, plan, team, loaded.streamed or loaded.split)


def _optimizer(loaded: LoadedModel, settings: Settings, device: str) -> Optimizer:
    train, named = settings.train, [(name, p) for name, p in loaded.model.named_parameters() if p.requires_grad]
    if offloads(train, device):
        return OffloadedOptimizer(named)
    copies = train.method != "full" or loaded.dtype == torch.float16
    return Optimizer(named, train.optimizer, copies, settings.lora.loraplus_lr_ratio)
