"""From a loaded model and encoded rows to a trainer that is ready to begin."""

from collections.abc import Callable, Sequence

import torch

from playground.data.batch import Example
from playground.model import adapt
from playground.model.load import Loaded
from playground.settings import Settings
from playground.train.feed import Feed
from playground.train.layers import Layers
from playground.train.loop import Trainer
from playground.train.loss import Loss
from playground.train.optimizer import Optimizer
from playground.train.parallel import Team
from playground.train.plan import once, plan


def prepare(held: Loaded, settings: Settings, examples: Sequence[Example], apart: Sequence[Example], team: Team) -> Trainer:
    """Put the adapter on the held model, or free its weights for a full fine-tune, and decide how it is computed.

    examples: what is trained on; apart: what is only measured on. Raises PlaygroundError for settings that don't fit them.
    """
    make_trainable(held, settings)
    return trainer_of(held, settings, examples, apart, team)


def make_trainable(held: Loaded, settings: Settings) -> None:
    """The held model as it learns: with a fresh adapter, or with all its weights free."""
    if settings.train.method == "full":
        held.model.requires_grad_(True)
    else:
        held.model = adapt.add_lora(held.model, settings.lora, held.dtype, settings.train.seed)


def trainer_of(
    held: Loaded, settings: Settings, examples: Sequence[Example], apart: Sequence[Example], team: Team, room: int | None = None, times: Callable = once,
) -> Trainer:  # fmt: skip
    """The rest of `prepare`. room: bytes to plan with (None: what is free); times: as of `plan`."""
    train, full = settings.train, settings.train.method == "full"
    loss_of = team.split(Loss(held.model))
    feed = Feed(loss_of, [*examples, *apart], held.tokenizer.pad_token_id or 0, team.device)
    trained = [(name, p) for name, p in held.model.named_parameters() if p.requires_grad]
    optimizer = Optimizer(trained, train.optimizer, copies=not full or held.dtype == torch.float16, ratio=settings.lora.lr_ratio)
    layers = Layers(held.model)
    chosen = plan(loss_of, optimizer, feed, layers, examples, train, room, times)
    chosen.compiled = train.compile == "on" and not team.sharded
    if team.size > 1:
        torch.manual_seed(train.seed + team.rank)  # what is dropped at random differs between processes
    return Trainer(loss_of, optimizer, feed, layers, chosen, team)
