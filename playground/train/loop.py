"""The fine-tune: a generator of events, one optimizer step at a time, on one process or several."""

import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from playground.data.batch import Example, epoch_batches
from playground.errors import problem
from playground.memory.meter import is_out_of_memory
from playground.memory.release import release_memory
from playground.settings import Train
from playground.train.batching import Batcher
from playground.train.trainer import Trainer, training_mode

TIMED_STEPS = 3  # steps after which the time left is known well enough to decide whether to compile
# seconds to compile the layers; on an H100 14 to 16, but 23 and 78 where every 4th or 3rd layer is recomputed
# (tests/bench/README.md)
COMPILE_SECONDS = 16
COMPILE_GAIN = 0.08  # share of the time that compiled layers save: 7 to 10 % on an H100 (tests/bench/README.md)

Pause = Generator[dict, None, bool | None]  # the events of a pause; returns whether training ends there
Between = Callable[[int], Pause | None]


def total_steps(rows: int, settings: Train) -> int:
    """Optimizer steps of a run over this number of rows."""
    return settings.max_steps or max(1, math.ceil(math.ceil(rows / settings.batch_size) * settings.epochs))


def learning_rate_at(step: int, steps: int, settings: Train) -> float:
    """Learning rate of step 0, 1, …: a linear warm-up, then the chosen schedule down to zero."""
    warmup = math.ceil(settings.warmup * steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    schedules = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
    return settings.lr * schedules[settings.schedule]


def fine_tune(
    trainer: Trainer,
    examples: Sequence[Example],
    settings: Train,
    stop: threading.Event,
    between: Between = lambda step: None,
) -> Iterator[dict]:
    """Train from `trainer.step` on; yield a `step` event after each step, and a `note` where the plan changes.

    Ends within a micro-batch of `stop`.
    between(steps done): the events of a pause before the next step, such as sampling, or None; it returns whether
    training ends there. In a pause the model is out of training mode, and its time doesn't count as training time.
    Event: {"step", "steps", "loss" (mean nats a labelled token), "tokens" (so far, with prompts, without padding),
    "lr", "tokens_per_s", "left_s" (seconds)}; with streamed or split layers also "stall_s": seconds that the device has
    waited for their weights since the event before.
    Raises PlaygroundError if the loss or the weights are no longer numbers, torch.OutOfMemoryError if no fallback needs
    less memory.
    """
    progress = _Progress(trainer, total_steps(len(examples), settings), settings.lr)
    batches = islice(
        _endless_batches(examples, settings, trainer.batcher), min(trainer.step, progress.steps), progress.steps
    )
    while True:
        with training_mode(trainer, learning=True):
            progress.resume()
            pause = yield from _train_until_pause(trainer, batches, settings, stop, between, progress)
            progress.pause()
        if pause is None:
            return
        if (yield from pause):
            _check_update(trainer, progress, settings.lr)
            return


class _Progress:
    """Measures training time, without pauses, and makes `step` events."""

    def __init__(self, trainer: Trainer, steps: int, base_lr: float):
        self.trainer, self.steps, self.base_lr = trainer, steps, base_lr
        self._first_step, self._first_tokens = trainer.step, trainer.tokens
        self._start, self._paused_at = time.perf_counter(), 0.0

    @property
    def steps_done(self) -> int:
        """Steps since this fine-tune began or was resumed."""
        return self.trainer.step - self._first_step

    @property
    def seconds(self) -> float:
        """Training time so far."""
        return time.perf_counter() - self._start

    def pause(self) -> None:
        self._paused_at = time.perf_counter()

    def resume(self) -> None:
        """End a pause, if there was one."""
        if self._paused_at:
            self._start += time.perf_counter() - self._paused_at
            self._paused_at = 0.0

    def event(self, read_loss: Callable[[], float], lr: float) -> dict:
        """The event of the last step. Raises PlaygroundError if its loss isn't a number."""
        loss = read_loss()
        if not math.isfinite(loss):
            raise problem("error.diverged", step=self.trainer.step, lr=self.base_lr)
        seconds = self.seconds
        streamed = self.trainer.streamed
        stall = {"stall_s": round(streamed.take_stall(), 6)} if streamed else {}
        return stall | {
            "kind": "step",
            "step": self.trainer.step,
            "steps": self.steps,
            "loss": round(loss, 5),
            "tokens": self.trainer.tokens,
            "lr": lr,
            "tokens_per_s": round((self.trainer.tokens - self._first_tokens) / seconds, 1),
            "left_s": round(seconds / self.steps_done * (self.steps - self.trainer.step), 1),
        }


def _train_until_pause(
    trainer: Trainer,
    batches: Iterator[list[Example]],
    settings: Train,
    stop: threading.Event,
    between: Between,
    progress: _Progress,
) -> Generator[dict, None, Pause | None]:
    """Train and yield events; return the events of the next pause, or None at the end of training.

    On CUDA a step's event is yielded only once the next step's work is queued, so that the card never waits for work.
    """
    on_cuda = trainer.batcher.device == "cuda"
    trainer.note_random_state()
    unreported: tuple[Callable[[], float], float] | None = None
    for batch in batches:
        if settings.compile == "auto" and not trainer.plan.compiled and progress.steps_done == TIMED_STEPS:
            seconds_left = progress.seconds / TIMED_STEPS * (progress.steps - trainer.step)
            yield from _compile_if_worthwhile(trainer, seconds_left)
        loss = yield from _gradients(trainer, batch, settings, stop)
        if unreported:
            yield progress.event(*unreported)
        if loss is None:
            return None
        lr = learning_rate_at(trainer.step, progress.steps, settings)
        _take_step(trainer, batch, lr)
        unreported = (_read_later(loss), lr)
        if not on_cuda:
            yield progress.event(*unreported)
            unreported = None
        if pause := between(trainer.step):
            if unreported:
                yield progress.event(*unreported)
            return pause
    if unreported:
        yield progress.event(*unreported)
    if progress.steps_done:
        _check_update(trainer, progress, settings.lr)
    return None


def _take_step(trainer: Trainer, batch: Sequence[Example], lr: float) -> None:
    """Update the weights with a batch's gradients, and count its step and its tokens."""
    with trainer.changing:
        trainer.optimizer.step(lr)
        trainer.step += 1
        trainer.tokens += sum(len(example.ids) for example in batch)
        trainer.note_random_state()


def _check_update(trainer: Trainer, progress: _Progress, lr: float) -> None:
    """Raises PlaygroundError if the last update left no numbers, which no loss shows any more, or none was made."""
    if not trainer.optimizer.is_finite():
        raise problem("error.diverged", step=trainer.step, lr=lr)
    if trainer.optimizer.skipped == progress.steps_done:
        raise problem("error.all_skipped", steps=progress.steps_done)


def _gradients(
    trainer: Trainer, batch: Sequence[Example], settings: Train, stop: threading.Event
) -> Generator[dict, None, torch.Tensor | None]:
    """Gradients of a whole batch, every labelled token weighing the same; yields a `note` where the plan had to change.

    Returns the mean loss as a tensor, or None if it was stopped in between. Out of memory, the batch is started again
    under a policy that needs less.
    """
    plan = trainer.plan
    while True:
        try:
            loss = _accumulate(trainer, batch, settings, stop)
            plan.compile_proven = plan.compiled
            return loss
        except RuntimeError as error:
            failure = error.with_traceback(None)  # its frames keep tensors that have to be freed
        note = _fall_back(trainer, failure)
        trainer.layers.set(plan.policy, plan.compiled)
        yield {"kind": "note", **note}


def _fall_back(trainer: Trainer, failure: RuntimeError) -> dict:
    """Change the plan after an error, drop the batch's gradients, and return the note about it.

    Raises the error again if no change can help; also with several processes, where the others would wait for this one.
    """
    plan, out_of_memory = trainer.plan, is_out_of_memory(failure)
    compiler_failed = plan.compiled and not plan.compile_proven and not out_of_memory
    if trainer.team.size > 1 or not (out_of_memory or compiler_failed):
        raise failure
    trainer.optimizer.drop_gradients()
    release_memory()
    if compiler_failed:  # whatever a compiler raises, training goes on without it
        plan.compiled = False
        return {"key": "note.compile_failed", "values": {"detail": str(failure).split("\n")[0][:200]}}
    before = plan.policy
    if not plan.step_down():
        raise failure
    now = plan.policy
    return {
        "key": "note.stepped_down",
        "values": {
            "before": before.checkpointing,
            "before_tokens": before.tokens,
            "now": now.checkpointing,
            "now_tokens": now.tokens,
        },
    }


def _read_later(value: torch.Tensor) -> Callable[[], float]:
    """A function that reads a number once it is computed, without waiting for work that is queued after this call."""
    if value.device.type != "cuda":
        return value.item
    copy = torch.empty((), dtype=value.dtype, pin_memory=True).copy_(value.detach(), non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read() -> float:
        copied.synchronize()
        return copy.item()

    return read


def _compile_if_worthwhile(trainer: Trainer, seconds_left: float) -> Iterator[dict]:
    """Compile the layers on CUDA if that earns back its time. Never on a CPU: there a run repeats bit for bit."""
    pays = seconds_left * COMPILE_GAIN > 2 * COMPILE_SECONDS
    if trainer.batcher.device == "cuda" and trainer.team.size == 1 and pays:
        trainer.plan.compiled = True
        trainer.layers.set(trainer.plan.policy, True)
        yield {"kind": "note", "key": "note.compiling", "values": {"seconds": COMPILE_SECONDS}}


def _accumulate(
    trainer: Trainer, batch: Sequence[Example], settings: Train, stop: threading.Event
) -> torch.Tensor | None:
    """Backward passes of this process's micro-batches of a batch, then the sum over all processes.

    Returns the batch's mean loss, or None if stopped before the end.
    """
    team = trainer.team
    total: Any = 0.0
    labelled = max(1, sum(example.labelled for example in batch))
    parts = trainer.batcher.micro_batches(
        team.local_rows(batch), settings.micro_batch_size or len(batch), trainer.plan.policy.tokens
    )
    if team.any(stop.is_set()):
        return None
    for part, weight in team.pad_micro_batches(parts, batch[:1]):
        if team.size == 1 and stop.is_set():
            return None
        loss = trainer.loss_module(trainer.batcher.batch(part)) * (weight / labelled)
        trainer.optimizer.backward(loss)
        total = total + loss.detach()
    team.all_reduce([total, *trainer.optimizer.gradients()])
    return total


def _endless_batches(examples: Sequence[Example], settings: Train, batcher: Batcher) -> Iterator[list[Example]]:
    """The batches of one epoch after another, each in an order of its own."""
    epoch = 0
    while True:
        yield from epoch_batches(examples, settings.batch_size, settings.seed + epoch, not batcher.packed)
        epoch += 1
