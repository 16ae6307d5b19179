"""The loss of held-out rows, row by row."""

import threading
from collections.abc import Generator, Sequence

import torch

from playground.data.batch import Example
from playground.train.trainer import Trainer, training_mode

EVAL_ROWS, EVAL_TOKENS = 16, 2048  # rows and tokens of a batch of held-out rows, at most


def held_out_losses(
    trainer: Trainer, examples: Sequence[Example], stop: threading.Event
) -> Generator[dict, None, list[tuple[float, int]] | None]:
    """Measure the loss of held-out rows. Yields `progress` events.

    Returns each row's (loss in nats, labelled tokens), shorter rows first, or None if stopped before the end.
    """
    losses: list[tuple[float, int]] = []
    with training_mode(trainer, learning=False), torch.no_grad():
        by_length = sorted(examples, key=lambda example: len(example.ids))
        for part in trainer.batcher.micro_batches(by_length, EVAL_ROWS, EVAL_TOKENS):
            if stop.is_set():
                return None
            labelled = [example.labelled for example in part]
            per_token = trainer.loss_module(trainer.batcher.batch(part), per_token=True).double()
            losses += [(row.sum().item(), count) for row, count in zip(per_token.split(labelled), labelled)]
            yield {"kind": "progress", "done": len(losses), "total": len(examples), "unit": "rows"}
    return losses
