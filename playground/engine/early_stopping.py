"""Held-out loss during training: keep the weights where it was lowest, and stop early where it no longer falls."""

import threading
from collections.abc import Generator

import torch

from playground.engine.evaluation import EvalSet, mean_loss, return_value
from playground.engine.job import JobContext
from playground.memory.meter import is_out_of_memory
from playground.memory.release import release_memory
from playground.settings import Train
from playground.train import best_weights
from playground.train.held_out import held_out_losses
from playground.train.trainer import Trainer


class HeldOutEvaluations:
    """Measures the held-out loss every `eval_every` steps and after the last one; the best weights go to a file.

    Measuring preserves the random state, so training gives the same model with and without it. Where memory isn't
    enough for it, it ends and training goes on. best: the lowest loss so far and its step; ended_early: whether there
    was no lower one for `patience` evaluations. After a resume the best of the steps before counts, of which the file
    knows, also where it is ahead of the checkpoint.
    """

    def __init__(self, context: JobContext, trainer: Trainer, eval_set: EvalSet, train: Train, steps: int):
        """steps: of the whole run."""
        self._context, self._trainer, self._examples, self._steps = context, trainer, eval_set.examples, steps
        self._every = train.eval_every if eval_set.examples else 0
        self._patience = train.patience
        self.path = context.run.folder / best_weights.NAME
        self.best = best_weights.read(self.path) if self._every else None
        self.ended_early = False

    def at(self, step: int) -> Generator[dict, None, bool] | None:
        """The events of the evaluation after that many steps, or None where none is due.

        The generator returns whether training ends there.
        """
        is_due = self._every and (step % self._every == 0 or step == self._steps)
        return self._evaluate(step) if is_due and not self._context.team.any(self._context.stop.is_set()) else None

    def missed(self) -> Generator[dict, None, bool] | None:
        """The evaluation of the step that a run is resumed at, where it was stopped just before that evaluation."""
        step = self._trainer.step
        seen = any(
            event["kind"] == "eval" and event.get("when") == "during" and event.get("step") == step
            for event in self._context.run.events()
        )
        return None if seen else self.at(step)

    def _evaluate(self, step: int) -> Generator[dict, None, bool]:
        try:
            loss = self._measure()
        except RuntimeError as error:
            if not is_out_of_memory(error) or self._context.team.size > 1:
                raise
            self._every = 0
        if not self._every:
            release_memory()  # after the except block: the error's frames held the tensors until then
            yield {"kind": "note", "key": "note.not_evaluated", "values": {"step": step}}
            return False
        if loss is None:
            return False
        yield {"kind": "eval", "when": "during", "step": step, "loss": loss}
        yield from self._compare(step, loss)
        return self.ended_early

    def _measure(self) -> float | None:
        """The mean loss; None if it was stopped."""
        team = self._context.team
        devices = [torch.cuda.current_device()] if self._trainer.batcher.device == "cuda" else []
        stop = self._context.stop if team.size == 1 else threading.Event()  # all processes measure to the end
        with torch.random.fork_rng(devices):
            losses = return_value(held_out_losses(self._trainer, self._examples, stop))
        return None if losses is None else mean_loss(losses)

    def _compare(self, step: int, loss: float) -> Generator[dict, None, None]:
        """Keep the weights if this loss is the lowest; else find out whether that was the last chance.

        Where they can't be written, the best ones before stay, with a `note`.
        """
        team, best = self._context.team, self.best
        if team.any(team.main and (best is None or loss < best.loss)):
            error = self._save(loss) if team.main else None
            if not team.any(error is not None):  # all count their patience from the same step, or one ends alone
                self.best = best_weights.Best(step, loss)
            if error:
                values = {"step": step, "detail": f"{error.filename}: {error.strerror}"}
                yield {"kind": "note", "key": "note.best_not_kept", "values": values}
        elif best and self._patience and step < self._steps:
            self.ended_early = step - best.step >= self._patience * self._every

    def _save(self, loss: float) -> OSError | None:
        """Write the weights to their file; returns why that failed."""
        try:
            best_weights.save(self._trainer, loss, self.path)
        except OSError as error:
            return error
        return None
