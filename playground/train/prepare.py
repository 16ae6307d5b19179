"""From a loaded model and encoded rows to a trainer that is ready to begin."""

from collections.abc import Callable, Sequence

import torch

from playground.data.batch import Example
from playground.model import adapt
from playground.model.load import LoadedModel
from playground.settings import Settings
from playground.train.batching import Batcher
from playground.train.checkpointing import CheckpointedLayers
from playground.train.loop import Trainer
from playground.train.loss import Loss
from playground.train.memory_policy import choose_plan, count_once
from playground.train.optimizer import Optimizer
from playground.train.parallel import Team


def prepare_trainer(
    loaded: LoadedModel, settings: Settings, examples: Sequence[Example], apart: Sequence[Example], team: Team
) -> Trainer:
    """Put the adapter on the held model, or free its weights for a full fine-tune, and decide how it is computed.

    examples: what is trained on; apart: what is only measured on. Raises PlaygroundError for settings that don't fit them.
    """
    make_trainable(loaded, settings)
    return build_trainer(loaded, settings, examples, apart, team)


def make_trainable(loaded: LoadedModel, settings: Settings) -> None:
    """The held model as it learns: with a fresh adapter, or with all its weights free."""
    if settings.train.method == "full":
        loaded.model.requires_grad_(True)
    else:
        loaded.model = adapt.add_lora(loaded.model, settings.lora, loaded.dtype, settings.train.seed)


def build_trainer(
    loaded: LoadedModel,
    settings: Settings,
    examples: Sequence[Example],
    apart: Sequence[Example],
    team: Team,
    room: int | None = None,
    multiplicity: Callable = count_once,
) -> Trainer:
    """The rest of `prepare`. room: bytes to plan with (None: what is free); times: as of `plan`."""
    train, full = settings.train, settings.train.method == "full"
    loss_module = team.split(Loss(loaded.model))
    batcher = Batcher(loss_module, [*examples, *apart], loaded.tokenizer.pad_token_id or 0, team.device)
    trained = [(name, p) for name, p in loaded.model.named_parameters() if p.requires_grad]
    optimizer = Optimizer(
        trained,
        train.optimizer,
        copies=not full or loaded.dtype == torch.float16,
        ratio=settings.lora.loraplus_lr_ratio,
    )
    layers = CheckpointedLayers(loaded.model)
    chosen = choose_plan(loss_module, optimizer, batcher, layers, examples, train, room, multiplicity)
    chosen.compiled = train.compile == "on" and not team.sharded
    if team.size > 1:
        torch.manual_seed(train.seed + team.rank)  # what is dropped at random differs between processes
    return Trainer(loss_module, optimizer, batcher, layers, chosen, team)
