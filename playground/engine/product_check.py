"""Check a model's float8 products before it is trained with them: measured, recorded, and refused beyond the limits."""

from collections.abc import Iterator, Sequence

from playground.data.batch import Example
from playground.errors import problem
from playground.memory.release import release_memory
from playground.train.product_check import (
    MAX_LOSS_DIFFERENCE,
    MIN_COSINE,
    compare_products,
    has_fast_nf4,
    has_float8_products,
)
from playground.train.trainer import Trainer


def check_products(trainer: Trainer, examples: Sequence[Example]) -> Iterator[dict]:
    """Yield a `note` with what float8 changes in this model's gradients and loss; nothing where none are multiplied.

    Raises PlaygroundError with the same figures where they are beyond the limits.
    """
    if not has_float8_products(trainer):
        return
    fast_nf4, check = has_fast_nf4(trainer), compare_products(trainer, examples)
    release_memory()
    values = {
        "cosine": round(check.cosine, 4),
        "loss": round(check.loss, 4),
        "exact_loss": round(check.exact_loss, 4),
        "tokens": check.tokens,
    }
    if not check.passed:
        raise problem(
            "error.fast_nf4_check" if fast_nf4 else "error.float8_check",
            tokens=check.tokens,
            cosine=round(check.cosine, 4),
            least=MIN_COSINE,
            loss=round(check.loss, 4),
            exact_loss=round(check.exact_loss, 4),
            percent=round(100 * MAX_LOSS_DIFFERENCE),
        )
    key = "note.fast_nf4_checked" if fast_nf4 else "note.float8_checked"
    yield {"kind": "note", "key": key, "values": values}
