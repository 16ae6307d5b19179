"""Evaluate a fine-tune on held-out rows: loss and answers before and after it, and sample answers during it."""

import contextlib
import json
import math
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from playground.data.batch import Example
from playground.data.source import Row
from playground.data.template import Template
from playground.engine.job import JobContext
from playground.eval import metrics
from playground.eval.answer_rows import answer_rows
from playground.memory.meter import is_out_of_memory
from playground.memory.release import release_memory
from playground.model.load import LoadedModel
from playground.runs import Run
from playground.runs.answers import FILE as ANSWERS
from playground.train.held_out import held_out_losses
from playground.train.parallel import Team
from playground.train.trainer import Trainer

SAMPLE_ROWS = 3  # that are answered during training
AUTO_SAMPLES, AUTO_MIN_STEPS = 4, 5  # sample_every "auto": times a run, and the fewest steps between two

Answers = dict[str, list[metrics.Answer]]  # by side, "base" and "tuned"


@dataclass(frozen=True)
class EvalSet:
    """The held-out rows that a fine-tune is evaluated on.

    examples: encoded, for the loss. questions: those rows that can be answered, which a text alone can't.
    max_new_tokens: of an answer.
    """

    examples: list[Example]
    questions: list[Row]
    template: Template
    max_new_tokens: int


@dataclass(frozen=True)
class HeldOutLoss:
    """The mean loss in nats a labelled token, and each row's (nats, labelled tokens).

    rows: None where a run that is resumed was evaluated on other rows.
    """

    mean: float | None
    rows: list[tuple[float, int]] | None


@dataclass(frozen=True)
class Comparison:
    """Figures of base and tuned model: facts recalled by side, and every metric; None where it wasn't measured."""

    recall: dict | None
    measures: dict | None


def evaluate_loss(
    when: str, trainer: Trainer, eval_set: EvalSet, stop: threading.Event
) -> Generator[dict, None, HeldOutLoss | None]:
    """Measure the held-out loss, "before" or "after", and emit it as an `eval` event.

    Returns None where there are no rows, or where it was stopped.
    """
    if not eval_set.examples or stop.is_set():
        return None
    yield {"kind": "phase", "name": "evaluate"}
    losses = yield from held_out_losses(trainer, eval_set.examples, stop)
    if losses is None:
        return None
    rows = [(round(nats, 4), tokens) for nats, tokens in losses]  # as recorded, so that a resumed run has the same
    mean = mean_loss(losses)
    yield {"kind": "eval", "when": when, "loss": mean, "each": [list(row) for row in rows]}
    return HeldOutLoss(mean, rows)


def mean_loss(rows: Sequence[tuple[float, int]]) -> float:
    """The mean loss in nats a labelled token of rows with (nats, labelled tokens) each, rounded as it is recorded."""
    return round(sum(round(nats, 4) for nats, _ in rows) / max(1, sum(tokens for _, tokens in rows)), 5)


def recorded_loss_before(run: Run, eval_set: EvalSet) -> HeldOutLoss | None:
    """The held-out loss before a fine-tune that is resumed now, from its run; None where it wasn't measured."""
    event = next((e for e in run.events() if e["kind"] == "eval" and e.get("when") == "before"), None)
    if event is None:
        return None
    rows = [(nats, tokens) for nats, tokens in event.get("each", ())]
    return HeldOutLoss(event.get("loss"), rows if len(rows) == len(eval_set.examples) else None)


def evaluate_answers(
    context: JobContext, loaded: LoadedModel, eval_set: EvalSet, sides: tuple[str, ...]
) -> Generator[dict, None, Answers]:
    """Answer the questions on these sides. Returns {} where there are none, or where it was stopped."""
    if not eval_set.questions or context.stop.is_set() or not _can_answer(context.team):
        return {}
    yield {"kind": "phase", "name": "compare"}
    answers = yield from answer_rows(
        loaded.model, eval_set.template, eval_set.questions, sides, eval_set.max_new_tokens, context.stop
    )
    return answers or {}


def compare(
    context: JobContext, eval_set: EvalSet, before: HeldOutLoss | None, after: HeldOutLoss | None, answers: Answers
) -> Generator[dict, None, Comparison]:
    """Compute every figure for which both sides were measured and emit them as `eval` events.

    The answers are written to the run's folder.
    """
    figures: dict[str, Any] = {}
    rows_shown: dict[str, Any] = {}
    if before and after and before.rows is not None and after.rows is not None:
        figures |= metrics.loss_figures(before.rows, after.rows)
    if len(answers) == 2:
        rows = metrics.score_rows(eval_set.questions, answers["base"], answers["tuned"])
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with contextlib.suppress(OSError):  # its run says that the folder can't be written
            (context.run.folder / ANSWERS).write_text(text, encoding="utf-8")
        figures |= metrics.answer_figures(rows)
        rows_shown = {"asked": len(rows), "limit": eval_set.max_new_tokens, **metrics.most_changed_rows(rows)}
    recall = None
    if "recall" in figures:
        recall = {side: round(figures["recall"][side], 4) for side in ("base", "tuned")}
        recall["rows"] = figures["recall"]["rows"]
        yield {"kind": "eval", "when": "recall", **recall}
    if figures and context.team.main:
        yield {"kind": "eval", "when": "measures", "rows": len(eval_set.examples), "figures": figures, **rows_shown}
    return Comparison(recall, figures or None)


class SampleAnswers:
    """Answers of the model to some of the questions while it trains, always the same ones.

    Sampling preserves the random state, so training gives the same model with and without it. Where memory isn't enough
    for it, sampling ends and training goes on.
    """

    def __init__(self, context: JobContext, loaded: LoadedModel, eval_set: EvalSet, every: str, steps: int):
        """every: "auto", "off" or a number of steps; steps: of the whole run, which ends with a sample."""
        stride = max(1, math.ceil(len(eval_set.questions) / SAMPLE_ROWS))
        self._questions = eval_set.questions[::stride][:SAMPLE_ROWS]
        self._loaded, self._eval_set, self._stop, self._steps = loaded, eval_set, context.stop, steps
        self._every = _steps_between_samples(every, steps) if self._questions and _can_answer(context.team) else 0

    def at(self, step: int) -> Iterator[dict] | None:
        """The `sample` events after that many steps, one a question, or None where no sample is due."""
        is_due = self._every and (step % self._every == 0 or step == self._steps)
        return self._sample(step) if is_due and not self._stop.is_set() else None

    def _sample(self, step: int) -> Iterator[dict]:
        try:
            answers = self._answer()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            answers = None
        if answers is None:
            release_memory()  # after the except block: the error's frames held the tensors until then
            self._every = 0
            yield {"kind": "note", "key": "note.not_sampled", "values": {"step": step}}
            return
        for row, answer in zip(self._questions, answers):
            yield {
                "kind": "sample",
                "step": step,
                "prompt": f"{row.instruction}\n{row.input}".strip(),
                "reference": row.output,
                "text": answer.text,
                "closed": answer.closed,
                "named": metrics.names_fact(answer.text, row) if row.key else None,
            }

    def _answer(self) -> list[metrics.Answer]:
        """The tuned side's answers; [] if it was stopped."""
        model, devices = self._loaded.model, [self._loaded.model.device] if self._loaded.device == "cuda" else []
        with torch.random.fork_rng(devices):
            answering = answer_rows(
                model,
                self._eval_set.template,
                self._questions,
                ("tuned",),
                self._eval_set.max_new_tokens,
                self._stop,
            )
            return (return_value(answering) or {}).get("tuned", [])


def _steps_between_samples(every: str, steps: int) -> int:
    """0 for "off"."""
    if every.isdecimal():
        return int(every)
    return {"auto": max(AUTO_MIN_STEPS, math.ceil(steps / AUTO_SAMPLES)), "off": 0}[every]


def _can_answer(team: Team) -> bool:
    """Whether this process answers questions: the main process does, unless the weights are split over processes."""
    return team.main and not team.sharded


def return_value(generator: Generator[Any, None, Any]) -> Any:
    """Run a generator to its end, ignoring what it yields; return what it returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value
