"""Compare the gradients of 8-bit products with those of exact ones, on a model's own rows, before it trains with them.

Both passes read the same quantized weights, so that the difference is that of the products alone: activations and
gradients rounded to float8 or to integers. What breaks them are outliers. A row of activations or gradients has one
scale; where one number in it is 10,000 times as large as the others (for integers 100 times), these are rounded to
nothing. Some models have such channels (Dettmers et al. 2022, arXiv 2208.07339, section 4), and no figure of another
model tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from playground.data.batch import Example
from playground.model import float8, nf4_fast
from playground.model.float8_linear import Float8Linear
from playground.train.linear import frozen_weight
from playground.train.quantized_ops import FrozenWeight
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


def products_in_8_bits(trainer: Trainer) -> str:
    """Which 8-bit products the model's layers make: "fp8", "int8-fast" or "nf4-fast"; "" if none."""
    model = trainer.batcher.model
    x = torch.empty(0, dtype=model.dtype, device="meta")
    for layer in model.modules():
        if isinstance(layer, Float8Linear) and layer.multiplies and layer.products.can_multiply(x):
            return layer.form
        if nf4_fast.is_fast(layer) and float8.can_multiply(x):
            return "nf4-fast"
    return ""


def weights_in_8_bits(trainer: Trainer) -> list[FrozenWeight]:
    """The weights of the layers that make 8-bit products."""
    layers = trainer.batcher.model.modules()
    fast = [m for m in layers if nf4_fast.is_fast(m) or (isinstance(m, Float8Linear) and m.multiplies)]
    return [frozen_weight(layer) for layer in fast]


def compare_products(trainer: Trainer, examples: Sequence[Example]) -> ProductCheck:
    """One forward and one backward pass with 8-bit products and one with exact ones, without dropout.

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
