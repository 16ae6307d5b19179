"""Compare the gradients of float8 products with those of exact ones, on a model's own rows, before it trains with them.

Both passes read the same quantized weights, so that the difference is that of the products alone: activations and
gradients rounded to float8. What breaks them are outliers. A row of activations or gradients has one scale; where one
number in it is 10,000 times as large as the others, these are rounded to nothing. Some models have such channels
(Dettmers et al. 2022, arXiv 2208.07339, section 4), and no figure of another model tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from playground.data.batch import Example
from playground.model import float8, nf4_fast
from playground.model.float8_linear import Float8Linear
from playground.train.trainer import Trainer, training_mode

SAMPLE_TOKENS = 512  # of the rows that are compared, unless a single one is longer
MIN_COSINE = 0.9  # of all trained parameters' gradients together
MAX_LOSS_DIFFERENCE = 0.05  # as a share of the loss


@dataclass(frozen=True)
class ProductCheck:
    """cosine: between both gradients; loss and exact_loss: mean nats a labelled token; tokens: of the rows compared."""

    cosine: float
    loss: float
    exact_loss: float
    tokens: int

    @property
    def passed(self) -> bool:
        """Whether both are within the limits; a figure that isn't a number is not."""
        difference = abs(self.loss - self.exact_loss)
        return self.cosine >= MIN_COSINE and difference <= MAX_LOSS_DIFFERENCE * self.exact_loss


def has_float8_products(trainer: Trainer) -> bool:
    """Whether any layer of the model multiplies in float8."""
    model = trainer.batcher.model
    return model.dtype == torch.bfloat16 and any(map(_multiplies_in_float8, model.modules()))


def has_fast_nf4(trainer: Trainer) -> bool:
    """Whether any layer has 4-bit weights that are multiplied in float8."""
    return any(map(nf4_fast.is_fast, trainer.batcher.model.modules()))


def compare_products(trainer: Trainer, examples: Sequence[Example]) -> ProductCheck:
    """One forward and one backward pass with float8 products and one with exact ones, without dropout.

    The memory is less than a step's: it keeps two gradients of the adapter where a step has one and the optimizer's
    averages, and dequantizes one weight at a time. Nothing of it stays, and no random number is drawn.
    """
    rows = _sample(trainer, examples)
    loss, gradients = _loss_and_gradients(trainer, rows)
    with float8.exact_products():
        exact_loss, exact_gradients = _loss_and_gradients(trainer, rows)
    return ProductCheck(
        cosine=_cosine(gradients, exact_gradients),
        loss=loss,
        exact_loss=exact_loss,
        tokens=sum(len(row.ids) for row in rows),
    )


def _sample(trainer: Trainer, examples: Sequence[Example]) -> list[Example]:
    """As many of the first rows that have a label as SAMPLE_TOKENS allow, the shortest of them if none does."""
    labelled = [row for row in examples if row.labelled] or list(examples)
    budget = min(SAMPLE_TOKENS, trainer.plan.policy.tokens or SAMPLE_TOKENS)
    short = [row for row in labelled if trainer.batcher.computed_tokens([row]) <= budget]
    if not short:
        return [min(labelled, key=lambda row: len(row.ids))]
    return next(trainer.batcher.micro_batches(short, len(short), budget))


def _multiplies_in_float8(layer: nn.Module) -> bool:
    return layer.multiplies if isinstance(layer, Float8Linear) else nf4_fast.is_fast(layer)


def _loss_and_gradients(trainer: Trainer, rows: Sequence[Example]) -> tuple[float, list[Tensor]]:
    """The mean loss of these rows, and the gradients of all trained parameters, which are taken from the optimizer."""
    labelled = max(1, sum(row.labelled for row in rows))
    with training_mode(trainer, learning=False):
        loss = trainer.loss_module(trainer.batcher.batch(rows)) / labelled
        trainer.optimizer.backward(loss)
    gradients = trainer.optimizer.gradients()
    trainer.optimizer.drop_gradients()
    return loss.item(), gradients


def _cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The cosine between two lists of tensors, each taken as one vector."""

    def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
        return sum(((a.double() * b.double()).sum() for a, b in zip(left, right)), torch.zeros((), dtype=torch.double))

    return (dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()).item()
