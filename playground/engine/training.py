"""The training part of a fine-tune: steps, samples, held-out loss and checkpoints, until it ends or is stopped."""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass

from playground.engine import predictions
from playground.engine.early_stopping import HeldOutEvaluations
from playground.engine.evaluation import SampleAnswers
from playground.engine.job import JobContext
from playground.engine.training_set import TrainingSet
from playground.engine.visitor_room import room_left
from playground.model.load import LoadedModel
from playground.runs import Run
from playground.settings import Train
from playground.train import best_weights, checkpoint
from playground.train.checkpoint import CheckpointTimer
from playground.train.loop import Between, Pause, fine_tune, total_steps
from playground.train.trainer import Trainer

MIN_MEASURED_STEPS = 2  # the first step allocates the optimizer's averages; the later ones are alike


@dataclass(frozen=True)
class Trained:
    """How training ended.

    last_step: the last `step` event. finished: whether it came to its end, be it early. best: {"step", "loss"} of the
    weights that the model has now; None where the last ones count.
    """

    last_step: dict
    finished: bool
    ended_early: bool = False
    best: dict | None = None


class Checkpoints:
    """Writes the run's checkpoint whenever one is due. Where it can't be written, training goes on, with a note.

    Where the run's folder can't be written any more, checkpoints go to its spare folder.
    """

    def __init__(self, trainer: Trainer, training_set: TrainingSet, run: Run, train: Train, writes: bool):
        """writes: whether this process does, as the main one."""
        self._trainer, self._examples, self._run, self._writes = trainer, training_set.examples, run, writes
        self._root = run.folder.parent
        size = checkpoint.size_of(trainer)
        free = round(min(checkpoint.free_bytes(run.folder), room_left(self._root)))
        self._sizes = {"size_bytes": size, "free_bytes": free}
        self._timer = CheckpointTimer(train.save_every, size, free)
        self._noted = False
        self._kept: int | None = trainer.step or None  # the step in the file: a run that is resumed has one already
        self._closed, self._lock = False, threading.Lock()

    def room_note(self) -> Iterator[dict]:
        """That none are written by themselves, where they would take too much of the disk."""
        if self._writes and self._timer.lacks_room:
            yield {"kind": "note", "key": "note.no_room_for_checkpoints", "values": self._sizes}

    def at(self, step: int) -> Generator[dict, None, None] | None:
        """What writing one after that many steps has to say, or None where none is due."""
        return self.write() if self._writes and self._timer.is_due(step) else None

    def write(self) -> Generator[dict, None, None]:
        """Write one now. Yields a `note` the first time that it couldn't be written."""
        began = time.monotonic()
        with self._lock:
            error = self._save()
        self._timer.written(time.monotonic() - began)
        if error and not self._noted:
            self._noted = True
            values = {"step": self._trainer.step, "detail": f"{error.filename}: {error.strerror}"}
            yield {"kind": "note", "key": "note.no_checkpoint", "values": values}

    def keep(self) -> int | None:
        """Write one at the end of the process, in any thread. Returns the step in the file, None where there is none.

        That is an earlier step where this one can't be written, or where the one before stays (`close`).
        """
        if not self._writes:
            return None
        with self._lock:
            if self._trainer.step and not self._closed:
                self._save()
        with self._trainer.changing:  # the end of the process waits for what is being saved
            return self._kept if self._run.has_file(checkpoint.NAME) else None

    def close(self) -> None:
        """From here on the one before stays, also at the end of the process. Waits for one that is being written."""
        with self._lock:
            self._closed = True

    def _save(self) -> OSError | None:
        """Write one to the run's folder, or else to its spare folder. Returns why the first couldn't be written."""
        path = self._run.folder / checkpoint.NAME
        if self._sizes["size_bytes"] > room_left(self._root) + (path.stat().st_size if path.is_file() else 0):
            return OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(path))  # the one before stays
        try:
            checkpoint.save(self._trainer, self._examples, path)
        except OSError as error:
            if spare := self._run.spare():
                with contextlib.suppress(OSError):
                    checkpoint.save(self._trainer, self._examples, spare / checkpoint.NAME)
                    self._kept = self._trainer.step
            return error
        self._kept = self._trainer.step
        if older := self._run.spare_file(checkpoint.NAME):
            with contextlib.suppress(OSError):
                older.unlink()  # it would be put back in place of this one
        return None


def train(
    context: JobContext,
    loaded: LoadedModel,
    trainer: Trainer,
    training_set: TrainingSet,
    settings: Train,
    start_peak: dict[str, int],
) -> Generator[dict, None, Trained | None]:
    """Train to the end, or until it is stopped or the held-out loss no longer falls; None where there was no step.

    Then the model has the best weights, where the held-out loss was measured. A checkpoint is written while it trains,
    and where it was stopped. start_peak: measured while the adapter's start values were computed; part of the peak that
    is told, as it is of the predicted one.
    """
    examples, last_step = training_set.examples, _recorded_step(context, trainer.step)
    steps = total_steps(len(examples), settings)
    samples = SampleAnswers(context, loaded, training_set.eval_set, settings.sample_every, steps)
    evaluations = HeldOutEvaluations(context, trainer, training_set.eval_set, settings, steps)
    checkpoints = Checkpoints(trainer, training_set, context.run, settings, context.team.main)
    context.keep = checkpoints.keep
    if settings.eval_every and not training_set.eval_set.examples:
        yield {"kind": "note", "key": "note.no_held_out", "values": {}}
    yield from checkpoints.room_note()
    yield {"kind": "phase", "name": "train"}
    first_step, first_tokens = trainer.step, trainer.tokens
    yield from (evaluations.missed() if first_step else samples.at(0)) or ()
    context.peaks.start_phase()
    if not evaluations.ended_early:
        between = _pauses(samples, evaluations, checkpoints, steps)
        for event in fine_tune(trainer, examples, settings, context.stop, between):
            yield event
            if event["kind"] == "step":
                last_step = event
    yield from _measurements(context, trainer.step - first_step, first_tokens, last_step, start_peak)
    if last_step is None:
        return None
    finished = evaluations.ended_early or last_step["step"] >= last_step["steps"]
    yield from _settle_checkpoint(context, checkpoints, finished, evaluations.ended_early)
    best = yield from _keep_best(trainer, evaluations, settings)
    return Trained(last_step, finished, evaluations.ended_early, best)


def _pauses(samples: SampleAnswers, evaluations: HeldOutEvaluations, checkpoints: Checkpoints, steps: int) -> Between:
    """What is due after each of so many steps: samples, the held-out loss, a checkpoint."""

    def between(step: int) -> Pause | None:
        pauses = [samples.at(step), evaluations.at(step), checkpoints.at(step) if step < steps else None]
        due = [pause for pause in pauses if pause is not None]
        return _in_turn(due) if due else None

    return between


def _settle_checkpoint(
    context: JobContext, checkpoints: Checkpoints, finished: bool, ended_early: bool
) -> Iterator[dict]:
    """Write the checkpoint of training that goes on when it is resumed, before the model gets other weights.

    After that it stays, since the best weights would be written as those of the last step. Stopped at its last step, a
    run goes on too: it may have missed that step's evaluation, which needs the weights of that step. After an early end
    the checkpoint before stays: resumed from there, it ends early again.
    """
    goes_on = not finished or (context.stop.is_set() and not ended_early)
    if goes_on and context.team.main:
        yield from checkpoints.write()
    if goes_on or ended_early:
        checkpoints.close()


def _measurements(
    context: JobContext, steps: int, first_tokens: int, last_step: dict | None, start_peak: dict[str, int]
) -> Iterator[dict]:
    """The measured memory of so many steps, and their mean time, where there were enough. first_tokens: before them."""
    if steps < MIN_MEASURED_STEPS:
        return
    yield predictions.measured_memory_event("tune", context.peaks, context.bytes_by_part(), start_peak)
    if last_step and last_step["tokens_per_s"]:
        training = (last_step["tokens"] - first_tokens) / last_step["tokens_per_s"]
        yield predictions.measured_step_event(training / steps)


def _recorded_step(context: JobContext, step: int) -> dict | None:
    """The recorded event of the step that a run is resumed at; None at the beginning."""
    events = (event for event in context.run.events() if event["kind"] == "step" and event["step"] == step)
    return next(events, None) if step else None


def _in_turn(pauses: list) -> Pause:
    """The events of all of these; returns whether any of them ends the training."""
    ends = False
    for pause in pauses:
        ends = bool((yield from pause)) or ends
    return ends


def _keep_best(
    trainer: Trainer, evaluations: HeldOutEvaluations, settings: Train
) -> Generator[dict, None, dict | None]:
    """Give the model the best weights, if any were kept, and say which; returns {"step", "loss"} of them."""
    best = evaluations.best
    if best is None or not evaluations.path.is_file():
        return None
    with trainer.changing:  # the end of the process would keep half of them
        best_weights.restore(trainer, evaluations.path)
    values = {"step": best.step, "loss": best.loss, "evaluations": settings.patience}
    key = "note.stopped_early" if evaluations.ended_early else "note.best_kept"
    yield {"kind": "note", "key": key, "values": values}
    return asdict(best)
