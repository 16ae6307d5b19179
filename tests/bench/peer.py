"""The peer of the training benchmarks: transformers.Trainer with PEFT, as their own guides write it."""

import time
from collections.abc import Sequence
from typing import Any

from playground.data.batch import Example
from playground.settings import Train


def hf_trainer(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    train: Train,
    out: str,
    collator: dict | None = None,
    **more: Any,
) -> tuple[Any, Any]:
    """A transformers.Trainer over these examples with these settings, and its clock (`clock_callback`).

    `collator` and `more` go to the collator and to TrainingArguments.
    """
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    rows = [
        {
            "input_ids": e.ids,
            "attention_mask": [1] * len(e.ids),
            "labels": [-100] * e.trained_from + e.ids[e.trained_from :],
        }
        for e in examples
    ]
    micro_batch_size = train.micro_batch_size or train.batch_size
    arguments = TrainingArguments(
        out,
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=train.batch_size // micro_batch_size,
        num_train_epochs=train.epochs,
        max_steps=train.max_steps or -1,
        learning_rate=train.lr,
        lr_scheduler_type=train.schedule,
        warmup_steps=train.warmup,
        seed=train.seed,
        optim="adamw_torch_fused",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **more,
    )
    data_collator = DataCollatorForSeq2Seq(tokenizer, padding=True, **(collator or {}))
    clock = clock_callback()
    return Trainer(model, arguments, data_collator=data_collator, train_dataset=rows, callbacks=[clock]), clock


def clock_callback() -> Any:
    """A callback of transformers.Trainer.

    Its `at` has the moments of the beginning and of every step's end; `tokens` the tokens seen by then, if
    TrainingArguments say to count them.
    """
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.at: list[float] = []
            self.tokens: list[int] = []

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._record(0)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._record(int(state.num_input_tokens_seen))

        def _record(self, tokens: int) -> None:
            synchronize()
            self.at.append(time.perf_counter())
            self.tokens.append(tokens)

    return Clock()


def synchronize() -> None:
    """Wait until the GPU has finished its work, so that a moment can be measured."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
