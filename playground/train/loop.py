"""The fine-tune: a generator of events, one step at a time.

Adapters compute in the model's own type, while the optimizer keeps float32 copies of them (Micikevicius et al. 2018,
arXiv 1710.03740): small updates aren't lost to rounding, and adapters are small enough for that to cost next to nothing.
"""

import math
import threading
import time
from collections.abc import Iterator, Sequence

import torch
from peft import PeftModel

from playground.data.batch import IGNORED, Example, batches
from playground.errors import problem
from playground.settings import Train
from playground.train.feed import Feed
from playground.train.loss import Loss

LARGEST_NORM = 1.0


class Masters:
    """AdamW over float32 copies of the trained parameters, with a loss scale where they are float16."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], lr: float):
        self.parameters = list(parameters)
        self.copies = [p.detach().float().clone().requires_grad_() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(self.copies, lr=lr, weight_decay=0.0, fused=True)
        half = any(p.dtype == torch.float16 for p in self.parameters)
        self.scaler = torch.amp.GradScaler(self.parameters[0].device.type, enabled=half)

    def step(self, lr: float) -> None:
        """Clip, update, and write the copies back into the model."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        for copy, parameter in zip(self.copies, self.parameters):
            copy.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.copies, LARGEST_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for copy, parameter in zip(self.copies, self.parameters):
                parameter.copy_(copy)


def total_steps(rows: int, settings: Train) -> int:
    """Optimizer steps of a run over that many rows."""
    return settings.steps or max(1, math.ceil(math.ceil(rows / settings.batch) * settings.epochs))


def rate(step: int, steps: int, settings: Train) -> float:
    """Learning rate of step 0, 1, …: a linear warm-up, then the chosen way down to zero."""
    warm = math.ceil(settings.warmup * steps)
    if step < warm:
        return settings.lr * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    falls = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return settings.lr * falls[settings.schedule]


def fine_tune(model: PeftModel, masters: Masters, examples: Sequence[Example], settings: Train, feed: Feed, stop: threading.Event) -> Iterator[dict]:
    """Train the adapter; yield a `step` event after each optimizer step. Ends within one micro-batch of `stop`.

    Event: {"step", "steps", "loss" (mean nats a labelled token), "tokens" (so far, with prompts, without padding), "lr",
    "tokens_per_s", "left_s"}. Raises PlaygroundError if the loss is no longer a number.
    """
    loss_of, steps = Loss(model), total_steps(len(examples), settings)
    model.train()
    tokens, began = 0, time.perf_counter()
    for step, batch in zip(range(steps), _forever(examples, settings)):
        loss, finished = _accumulate(loss_of, masters, feed.micro_batches(batch, settings), stop)
        if not finished:
            break
        if not math.isfinite(loss):
            raise problem("error.diverged", step=step + 1, lr=settings.lr)
        lr = rate(step, steps, settings)
        masters.step(lr)
        tokens += sum(len(e.ids) for e in batch)
        seconds = time.perf_counter() - began
        yield {
            "kind": "step", "step": step + 1, "steps": steps, "loss": round(loss, 5), "tokens": tokens, "lr": lr,
            "tokens_per_s": round(tokens / seconds, 1), "left_s": round(seconds / (step + 1) * (steps - step - 1), 1),
        }  # fmt: skip
    model.eval()


def held_out_loss(model: PeftModel, examples: Sequence[Example], feed: Feed, stop: threading.Event) -> Iterator[dict]:
    """Yield `progress`; return the mean loss in nats a labelled token, or None if stopped before the end."""
    loss_of, total, count, done = Loss(model), 0.0, 0, 0
    model.eval()
    for part in feed.parts(sorted(examples, key=lambda e: len(e.ids)), 16):
        if stop.is_set():
            return None
        with torch.no_grad():
            loss, labelled = loss_of(feed.batch(part))
        total, count, done = total + loss.item(), count + labelled, done + len(part)
        yield {"kind": "progress", "done": done, "total": len(examples), "unit": "rows"}
    return total / max(count, 1)


def _accumulate(loss_of: Loss, masters: Masters, parts: Sequence[dict], stop: threading.Event) -> tuple[float, bool]:
    """Gradients of a whole batch, micro-batch by micro-batch, every labelled token weighing the same.

    Returns the mean loss, and False if it was stopped in between.
    """
    labelled, total = sum(int((part["labels"][:, 1:] != IGNORED).sum()) for part in parts), 0.0
    for part in parts:
        if stop.is_set():
            return total, False
        loss, _ = loss_of(part)
        masters.scaler.scale(loss / max(labelled, 1)).backward()
        total += loss.item() / max(labelled, 1)
    return total, True


def _forever(examples: Sequence[Example], settings: Train) -> Iterator[list[Example]]:
    epoch = 0
    while True:
        yield from batches(examples, settings.batch, settings.seed + epoch)
        epoch += 1
