"""The kinds of jobs that can wait in the queue: how each is started on the engine, and what is kept of its outcome.

A new kind is one entry of KINDS. One whose method the engine doesn't have isn't offered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground import runs
from playground.errors import problem
from playground.job import Job
from playground.jobs.store import QueuedJob
from playground.settings import Generation, parse

MAX_ANSWER_CHARS = 20_000  # that are kept of each answer
ANSWER = Generation(max_new_tokens=256)  # greedy, so that answers of a sweep can be compared
TARGETS = ("adapter", "merged", "gguf")  # of an export


@dataclass(frozen=True)
class Kind:
    """method: of the engine. start: (engine, root, job, the run that it uses) → the engine's job. needs_run: whether it
    uses a run. outcome: what is kept of an ended job, in JSON types.
    """

    method: str
    needs_run: bool
    start: Callable[[Any, Path, QueuedJob, str], Job]
    outcome: Callable[[Job], dict]


def offered(engine: object) -> list[str]:
    """The kinds that this engine has."""
    return [name for name, kind in KINDS.items() if hasattr(engine, kind.method)]


def start(engine: Any, root: Path, job: QueuedJob, run: str) -> Job:
    """Start a job of the queue. Raises PlaygroundError: unknown kind, bad settings, busy engine."""
    if job.kind not in offered(engine):
        raise problem("error.queue_kind", kind=job.kind[:40])
    return KINDS[job.kind].start(engine, root, job, run)


def _tune(engine: Any, root: Path, job: QueuedJob, run: str) -> Job:
    if job.resume:
        return engine.resume(job.run)
    return engine.tune(parse(job.settings))


def _compare(engine: Any, root: Path, job: QueuedJob, run: str) -> Job:
    tuned = runs.find(root, run)
    if not tuned.adapter.is_dir() and not tuned.model.is_dir():
        raise problem("error.no_adapter", run=run)
    turn = [{"instruction": str(job.options.get("question", "")), "answer": None}]
    return engine.chat(tuned.settings(), run, {"base": turn, "tuned": turn}, ANSWER)


def _answers(job: Job) -> dict:
    """The last answers; they are kept here, since what people say to a model stays out of the runs."""
    last: dict = next((event for event in reversed(list(job.events())) if event["kind"] == "answer"), {})
    return {side: str(last.get(side, ""))[:MAX_ANSWER_CHARS] for side in ("base", "tuned")}


def _export(engine: Any, root: Path, job: QueuedJob, run: str) -> Job:
    """One that has exported an earlier state of the run replaces it."""
    to = str(job.options.get("to", TARGETS[0]))
    return engine.export({"run": runs.find(root, run).id, "to": to, "force": bool(job.run)})


KINDS = {
    "tune": Kind("tune", False, _tune, lambda job: {}),
    "compare": Kind("chat", True, _compare, _answers),
    "export": Kind("export", True, _export, lambda job: dict(job.result)),
}
