"""From a loaded model and encoded rows to a trainer that is ready to begin."""

from collections.abc import Sequence

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
from playground.train.plan import plan


def prepare(held: Loaded, settings: Settings, examples: Sequence[Example], apart: Sequence[Example], team: Team, room: int | None = None) -> Trainer:
    """Put the adapter on the held model, or free its weights for a full fine-tune, and decide how it is computed.

    examples: what is trained on; apart: what is only measured on; room: bytes to plan with (None: what is free). Raises PlaygroundError for settings that don't fit them.
    """
    lora, train = settings.lora, settings.train
    full, half = train.method == "full", held.dtype == torch.float16
    if full:
        held.model.requires_grad_(True)
    else:
        held.model = adapt.add_lora(held.model, lora, held.dtype, train.seed)
    loss_of = team.split(Loss(held.model))
    feed = Feed(loss_of, [*examples, *apart], held.tokenizer.pad_token_id or 0, team.device)
    trained = [(name, p) for name, p in held.model.named_parameters() if p.requires_grad]
    optimizer = Optimizer(trained, train.optimizer, copies=not full or half, ratio=lora.lr_ratio)
    layers = Layers(held.model)
    chosen = plan(loss_of, optimizer, feed, layers, examples, train, room)
    chosen.compiled = train.compile == "on" and not team.sharded
    if team.size > 1:
        torch.manual_seed(train.seed + team.rank)  # what is dropped at random differs between processes
    return Trainer(loss_of, optimizer, feed, layers, chosen, team)
