"""The fine-tune: a generator of events, one optimizer step at a time, on one process or several."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from playground.data.batch import Example, epoch_batches
from playground.errors import problem
from playground.memory.meter import is_out_of_memory
from playground.memory.release import release_memory
from playground.settings import Train
from playground.train.batching import Batcher
from playground.train.checkpointing import CheckpointedLayers
from playground.train.loss import Loss
from playground.train.memory_policy import MemoryPlan
from playground.train.optimizer import Optimizer
from playground.train.parallel import Team
from playground.train.patches import patch_modules

TIMED_STEPS = 3  # steps, after which the time left is known well enough
COMPILE_SECONDS, COMPILE_GAIN = (
    16,
    0.08,
)  # seconds to compile a layer, and the share of the time it saves: 13–17 and 6–9 % on an H100 (README)


@dataclass
class Trainer:
    """What a fine-tune works with. `step` optimizer steps over `tokens` tokens are done."""

    loss_module: Loss
    optimizer: Optimizer
    batcher: Batcher
    layers: CheckpointedLayers
    plan: MemoryPlan
    team: Team
    step: int = 0
    tokens: int = 0


def total_steps(rows: int, settings: Train) -> int:
    """Optimizer steps of a run over that many rows."""
    return settings.max_steps or max(1, math.ceil(math.ceil(rows / settings.batch_size) * settings.epochs))


def learning_rate_at(step: int, steps: int, settings: Train) -> float:
    """Learning rate of step 0, 1, …: a linear warm-up, then the chosen way down to zero."""
    warm = math.ceil(settings.warmup * steps)
    if step < warm:
        return settings.lr * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    falls = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return settings.lr * falls[settings.schedule]


def fine_tune(
    trainer: Trainer,
    examples: Sequence[Example],
    settings: Train,
    stop: threading.Event,
    between: Callable[[int], Iterator[dict] | None] = lambda step: None,
) -> Iterator[dict]:
    """Train from `trainer.step` on; yield a `step` event after each optimizer step. Ends within a micro-batch of `stop`.

    `between(steps done)`: events of what is to be done before the next step with the model as it is outside of training, or None.
    Event: {"step", "steps", "loss" (mean nats a labelled token), "tokens" (so far, with prompts, without padding), "lr",
    "tokens_per_s", "left_s"}; a `note` where the plan had to change. Raises PlaygroundError if the loss is no longer a
    number, torch.OutOfMemoryError if no plan is left that needs less.
    """
    steps, began, first = total_steps(len(examples), settings), time.perf_counter(), (trainer.step, trainer.tokens)

    def report(loss: Callable[[], float], lr: float) -> dict:
        value = loss()
        if not math.isfinite(value):
            raise problem("error.diverged", step=trainer.step, lr=settings.lr)
        seconds = time.perf_counter() - began
        return {
            "kind": "step",
            "step": trainer.step,
            "steps": steps,
            "loss": round(value, 5),
            "tokens": trainer.tokens,
            "lr": lr,
            "tokens_per_s": round((trainer.tokens - first[1]) / seconds, 1),
            "left_s": round(seconds / (trainer.step - first[0]) * (steps - trainer.step), 1),
        }

    with contextlib.ExitStack() as training:
        training.enter_context(training_mode(trainer, learning=True))
        done = None
        for batch in islice(_forever(examples, settings, trainer.batcher), trainer.step, steps):
            if settings.compile == "auto" and not trainer.plan.compiled and trainer.step - first[0] == TIMED_STEPS:
                yield from _compile_if_it_pays(
                    trainer, (time.perf_counter() - began) / TIMED_STEPS * (steps - trainer.step)
                )
            loss = yield from _gradients(trainer, batch, settings, stop)
            if done and trainer.batcher.device == "cuda":  # told only now, so that the card always has work
                yield report(*done)
            if loss is None:
                return
            lr = learning_rate_at(trainer.step, steps, settings)
            trainer.optimizer.step(lr)
            trainer.step, trainer.tokens, done = (
                trainer.step + 1,
                trainer.tokens + sum(len(e.ids) for e in batch),
                (_later(loss), lr),
            )
            if trainer.batcher.device != "cuda":
                yield report(*done)
            if aside := between(trainer.step):
                if trainer.batcher.device == "cuda":
                    yield report(*done)
                done, paused = None, time.perf_counter()
                training.close()
                yield from aside
                training.enter_context(training_mode(trainer, learning=True))
                began += time.perf_counter() - paused  # no time of training's
        if done and trainer.batcher.device == "cuda":
            yield report(*done)


def held_out_losses(
    trainer: Trainer, examples: Sequence[Example], stop: threading.Event
) -> Generator[dict, None, list[tuple[float, int]] | None]:
    """Yield `progress`; return each row's (loss in nats, labelled tokens), shorter rows first, or None if stopped before the end."""
    found = []
    with training_mode(trainer, learning=False), torch.no_grad():
        for part in trainer.batcher.parts(sorted(examples, key=lambda e: len(e.ids)), 16, 2048):
            if stop.is_set():
                return None
            sizes = [e.labelled for e in part]
            each = trainer.loss_module(trainer.batcher.batch(part), each=True).double()
            found += [(row.sum().item(), size) for row, size in zip(each.split(sizes), sizes)]
            yield {"kind": "progress", "done": len(found), "total": len(examples), "unit": "rows"}
    return found


@contextlib.contextmanager
def training_mode(trainer: Trainer, learning: bool):
    """Within it, the model computes as the loop wants it: lean layers, attention over packed rows, the dial."""
    trainer.loss_module.train(learning)
    with patch_modules(trainer.loss_module, trainer.batcher.model), trainer.batcher.attention():
        try:
            trainer.layers.set(trainer.plan.policy, learning and trainer.plan.compiled)
            yield
        finally:
            trainer.layers.restore()
            trainer.loss_module.eval()


def _gradients(trainer: Trainer, batch: Sequence[Example], settings: Train, stop: threading.Event):
    """Gradients of a whole batch, every labelled token weighing the same; yields a `note` where the plan had to change.

    Returns the mean loss as a tensor, or None if it was stopped in between. Out of memory, the batch is begun again
    under a plan that needs less.
    """
    plan = trainer.plan
    while True:
        try:
            loss = _accumulate(trainer, batch, settings, stop)
            plan.proven = plan.compiled
            return loss
        except RuntimeError as error:
            failed = error.with_traceback(None)  # its frames hold what has to go
            leaner = is_out_of_memory(error)
        if trainer.team.size > 1 or not (
            leaner or (plan.compiled and not plan.proven)
        ):  # others would wait for this one
            raise failed
        trainer.optimizer.drop_gradients()
        release_memory()
        before = plan.policy
        if not leaner:  # what a compiler raises is none of our business, as long as it goes without it
            plan.compiled = False
            note = {"key": "note.compile_failed", "values": {"detail": str(failed).split("\n")[0][:200]}}
        elif plan.step_down():
            now = plan.policy
            note = {
                "key": "note.stepped_down",
                "values": {
                    "before": before.checkpointing,
                    "before_tokens": before.tokens,
                    "now": now.checkpointing,
                    "now_tokens": now.tokens,
                },
            }
        else:
            raise failed
        trainer.layers.set(plan.policy, plan.compiled)
        yield {"kind": "note", **note}


def _later(value: torch.Tensor) -> Callable[[], float]:
    """A way to read a number once it is there, without waiting for what is begun on the card after this call."""
    if value.device.type != "cuda":
        return value.item
    copy = torch.empty((), dtype=value.dtype, pin_memory=True).copy_(value.detach(), non_blocking=True)
    there = torch.cuda.Event()
    there.record()

    def read() -> float:
        there.synchronize()
        return copy.item()

    return read


def _compile_if_it_pays(trainer: Trainer, left: float) -> Iterator[dict]:
    """Compile the layers on CUDA if that earns back its time in the `left` seconds. Never on a CPU: there a run repeats bit for bit."""
    if trainer.batcher.device == "cuda" and trainer.team.size == 1 and left * COMPILE_GAIN > 2 * COMPILE_SECONDS:
        trainer.plan.compiled = True
        trainer.layers.set(trainer.plan.policy, True)
        yield {"kind": "note", "key": "note.compiling", "values": {"seconds": COMPILE_SECONDS}}


def _accumulate(
    trainer: Trainer, batch: Sequence[Example], settings: Train, stop: threading.Event
) -> torch.Tensor | None:
    """This process's micro-batches of a batch, then the sum over all processes."""
    team, total = trainer.team, 0.0
    labelled = max(1, sum(e.labelled for e in batch))
    parts = trainer.batcher.parts(
        team.share(batch), settings.micro_batch_size or len(batch), trainer.plan.policy.tokens
    )
    if team.any(stop.is_set()):
        return None
    for part, weight in team.pad_micro_batches(parts, batch[:1]):
        if team.size == 1 and stop.is_set():
            return None
        loss = trainer.loss_module(trainer.batcher.batch(part)) * (weight / labelled)
        trainer.optimizer.backward(loss)
        total = total + loss.detach()
    trainer.team.sum([total, *trainer.optimizer.gradients()])
    return total


def _forever(examples: Sequence[Example], settings: Train, batcher: Batcher) -> Iterator[list[Example]]:
    epoch = 0
    while True:
        yield from epoch_batches(examples, settings.batch_size, settings.seed + epoch, alike=not batcher.packed)
        epoch += 1
