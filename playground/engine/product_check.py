"""Check a model's 8-bit products before it is trained with them: measured, recorded, and refused beyond the limits."""

from collections.abc import Iterator, Sequence

from playground.data.batch import Example
from playground.errors import problem
from playground.memory.release import release_memory
from playground.train.product_check import (
    MAX_LOSS_DIFFERENCE,
    MIN_COSINE,
    compare_products,
    products_in_8_bits,
    weights_in_8_bits,
)
from playground.train.product_trial import ROWS, largest_weight, product_milliseconds
from playground.train.trainer import Trainer

NOTES = {"fp8": "note.float8_checked", "int8-fast": "note.fast_int8_checked", "nf4-fast": "note.fast_nf4_checked"}
PROBLEMS = {"fp8": "error.float8_check", "int8-fast": "error.fast_int8_check", "nf4-fast": "error.fast_nf4_check"}


def check_products(trainer: Trainer, examples: Sequence[Example]) -> Iterator[dict]:
    """Yield `note`s: what they change in this model's gradients and loss, and how fast they are here.

    Nothing where none are multiplied.

    Raises PlaygroundError with the same figures where they are beyond the limits.
    """
    kind = products_in_8_bits(trainer)
    if not kind:
        return
    check = compare_products(trainer, examples)
    release_memory()
    values = {
        "cosine": round(check.cosine, 4),
        "loss": round(check.loss, 4),
        "exact_loss": round(check.exact_loss, 4),
        "tokens": check.tokens,
    }
    if not check.passed:
        raise problem(
            PROBLEMS[kind],
            tokens=check.tokens,
            cosine=round(check.cosine, 4),
            least=MIN_COSINE,
            loss=round(check.loss, 4),
            exact_loss=round(check.exact_loss, 4),
            percent=round(100 * MAX_LOSS_DIFFERENCE),
        )
    yield {"kind": "note", "key": NOTES[kind], "values": values}
    yield _speed_note(trainer, kind)


def _speed_note(trainer: Trainer, kind: str) -> dict:
    """How long the products of the largest layer take in each kind, and that of this run."""
    model, weight = trainer.batcher.model, largest_weight(weights_in_8_bits(trainer))
    times = product_milliseconds(weight, model.device.type, model.dtype)
    release_memory()
    plain = next(iter(times.values()))
    values = {
        "kind": kind,
        "times": [f"{name} {value:.2f}" for name, value in times.items()],
        "size": f"{weight.in_features} × {weight.out_features}",
        "rows": ROWS[model.device.type],
        "speedup": f"{plain / times[kind]:.2f}",
    }
    key = "note.product_speed" if times[kind] < plain else "note.product_speed_slower"
    return {"kind": "note", "key": key, "values": values}
