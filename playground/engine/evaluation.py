"""What a fine-tune is measured by, as the job tune goes on: the held-out loss and answers before and after, and a few answers during it.

What one side is measured by comes as events; `Measured` keeps it until both sides are there.
"""

import json
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

import torch

from playground.data.batch import Example
from playground.data.source import Row
from playground.data.template import Template
from playground.eval import metrics
from playground.eval.answer_rows import answer_rows
from playground.memory.meter import is_out_of_memory
from playground.memory.release import release_memory
from playground.runs import Run
from playground.train.loop import held_out_losses

ANSWERS = "answers.jsonl"  # in the run's folder: every row that was asked, with both answers
ASKED_MEANWHILE = 3  # rows that are asked during training
TIMES, APART = 4, 5  # "auto": so many times a run, and never fewer than so many steps apart


@dataclass
class EvalSet:
    """What is measured on, and what was found so far: losses by "before" and "after", answers by side.

    examples: the rows as the loss reads them; asked: those of them that ask something; limit: tokens an answer may have.
    """

    examples: list[Example]
    asked: list[Row]
    template: Template
    limit: int
    losses: dict[str, list[list]] = field(default_factory=dict)
    answers: dict[str, list[metrics.Answer]] = field(default_factory=dict)


def evaluate_loss(when: str, bench, found: EvalSet) -> Generator[dict, None, float | None]:
    """The held-out loss as a `score` event, with each row's [nats, labelled tokens]; returns the mean, or None where there is nothing to measure on."""
    if not found.examples or bench.stop.is_set():
        return None
    yield {"kind": "phase", "name": "evaluate"}
    each = yield from held_out_losses(bench.trainer, found.examples, bench.stop)
    if each is None:
        return None
    found.losses[when] = [
        [round(nats, 4), tokens] for nats, tokens in each
    ]  # as the run keeps it, so that a resumed one finds the same
    mean = round(sum(nats for nats, _ in found.losses[when]) / max(1, sum(tokens for _, tokens in each)), 5)
    yield {"kind": "eval", "when": when, "loss": mean, "each": found.losses[when]}
    return mean


def loss_before(run: Run, found: EvalSet) -> float | None:
    """What `loss` found before a fine-tune that is now resumed."""
    event = next((e for e in run.events() if e["kind"] == "eval" and e.get("when") == "before"), {})
    if len(event.get("each", ())) == len(found.examples):
        found.losses["before"] = event["each"]
    return event.get("loss")


def evaluate_answers(bench, found: EvalSet, sides: tuple[str, ...]) -> Iterator[dict]:
    """Ask the rows of those sides; only the main process does, and nobody where weights are split."""
    if not found.asked or bench.stop.is_set() or not bench.team.main or bench.team.sharded:
        return
    yield {"kind": "phase", "name": "compare"}
    found.answers |= (
        yield from answer_rows(bench.loaded.model, found.template, found.asked, sides, found.limit, bench.stop)
    ) or {}


def report(bench, found: EvalSet) -> Generator[dict, None, dict]:
    """What was found of both sides, as `score` events; the answers go into the run's folder. Returns {"recall", "measures"}, each None where it wasn't measured."""
    figures, recall, more = {}, None, {}
    if len(found.losses) == 2:
        figures |= metrics.loss_figures(found.losses["before"], found.losses["after"])
    if len(found.answers) == 2:
        rows = metrics.score_rows(found.asked, found.answers["base"], found.answers["tuned"])
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (bench.run.folder / ANSWERS).write_text(text, encoding="utf-8")
        figures |= metrics.answer_figures(rows)
        more = {"asked": len(rows), "limit": found.limit, **metrics.most_changed_rows(rows)}
    if "recall" in figures:
        recall = {
            "base": round(figures["recall"]["base"], 4),
            "tuned": round(figures["recall"]["tuned"], 4),
            "rows": figures["recall"]["rows"],
        }
        yield {"kind": "eval", "when": "recall", **recall}
    if figures and bench.team.main:
        yield {"kind": "eval", "when": "measures", "rows": len(found.examples), "figures": figures, **more}
    return {"recall": recall, "measures": figures or None}


def _return_value(events: Generator):
    """What a generator returns, whatever it yields."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


class SampleAnswers:
    """What the model answers to a few of the rows while it learns, always the same ones.

    Training goes on as if nobody had asked: what is drawn at random is drawn from where it was, and memory that isn't enough
    for asking ends the asking alone.
    """

    def __init__(self, bench, found: EvalSet, every: str, steps: int):
        wanted = int(every) if every.isdecimal() else {"auto": max(APART, math.ceil(steps / TIMES)), "off": 0}[every]
        rows = found.asked[:: max(1, math.ceil(len(found.asked) / ASKED_MEANWHILE))][:ASKED_MEANWHILE]
        self._bench, self._found, self._rows, self._steps = bench, found, rows, steps
        self._every = wanted if rows and bench.team.main and not bench.team.sharded else 0

    def at(self, step: int) -> Iterator[dict] | None:
        """The `sample` events of that step, one a row, or None if nothing is to be asked after it."""
        due = self._every and (step % self._every == 0 or step == self._steps)
        return self._events(step) if due and not self._bench.stop.is_set() else None

    def _events(self, step: int) -> Iterator[dict]:
        loaded, told = self._bench.loaded, None
        with torch.random.fork_rng([loaded.model.device] if loaded.device == "cuda" else []):
            try:
                told = (
                    _return_value(
                        answer_rows(
                            loaded.model,
                            self._found.template,
                            self._rows,
                            ("tuned",),
                            self._found.limit,
                            self._bench.stop,
                        )
                    )
                    or {}
                )
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._every = 0
        if told is None:
            release_memory()  # once the error and what its frames held are gone
            yield {"kind": "note", "key": "note.not_sampled", "values": {"step": step}}
        for row, answer in zip(self._rows, (told or {}).get("tuned", ())):
            question = f"{row.instruction}\n{row.input}".strip()
            yield {
                "kind": "sample",
                "step": step,
                "prompt": question,
                "reference": row.output,
                "text": answer.text,
                "closed": answer.closed,
            }
