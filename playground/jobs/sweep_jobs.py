"""A sweep in the queue: which of its jobs are still to be done, what follows each, and its results so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground import runs
from playground.errors import PlaygroundError
from playground.jobs import store
from playground.jobs.owner import mark_interrupted
from playground.jobs.store import Listing, QueuedJob
from playground.jobs.sweep import Sweep
from playground.runs.summary import TOTALS, number, pair_of
from playground.settings import Settings

ROUNDING_SECONDS = 1.0  # by which times of a run and of the queue may differ
UNFINISHED_ENDS = ("failed", "stopped", "interrupted")  # states of jobs that ended without a result


@dataclass(frozen=True)
class Follower:
    """A job that uses the run of the one before: its kind, and its options."""

    kind: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One run of a sweep. loss: held-out, before and after; facts: of the base and the tuned model, 0 to 1; peak:
    bytes of the whole GPU or program; answer: of the tuned model, where a comparison follows that is no older than the
    run's end. None: not known (yet).
    """

    job: str
    combination: dict[str, Any]
    state: str
    run: str
    loss: tuple[float, float] | None
    facts: tuple[float, float] | None
    peak: int | None
    tokens_per_s: float | None
    seconds: float | None
    answer: str
    error: dict[str, Any]


def chain(settings: Settings, followers: Sequence[Follower], **values: Any) -> list[QueuedJob]:
    """A fine-tune and what follows it, each using its run."""
    first = QueuedJob("tune", settings.to_dict(), **values)
    group = values.get("group", "")
    return [first, *(QueuedJob(one.kind, options=one.options, after=first.id, group=group) for one in followers)]


def put_sweep(root: Path, sweep: Sweep, followers: Sequence[Follower] = ()) -> int:
    """Add to the queue what isn't done yet of a sweep; returns how many of its runs were done, or wait, already.

    Stopped and interrupted runs go on from their checkpoint, where they have one. What follows a run is added where it
    is missing, and done again where it has failed, was stopped or interrupted. Raises PlaygroundError, OSError.
    """
    mark_interrupted(root)
    existing = store.listing(root).group(sweep.group)
    known = {_key(job.combination): job for job in existing if job.kind == "tune"}
    added: list[QueuedJob] = []
    kept = 0
    again: list[tuple[str, bool]] = []
    for combination in sweep.combinations:
        job = known.get(_key(combination))
        if job is None:
            added += chain(sweep.settings(combination), followers, group=sweep.group, combination=combination)
            continue
        if job.state in ("waiting", "running") or (job.state == "done" and has_run(root, job.run)):
            kept += 1
        else:
            again.append((job.id, can_resume(root, job)))
        following = [one for one in existing if one.after == job.id]
        again += [(one.id, False) for one in following if one.state in UNFINISHED_ENDS]
        added += _missing(job, following, followers)
    for job_id, resume in again:
        store.again(root, job_id, resume)
    store.add(root, added)
    return kept


def _missing(job: QueuedJob, following: Sequence[QueuedJob], followers: Sequence[Follower]) -> list[QueuedJob]:
    """The followers that a fine-tune of the queue doesn't have yet."""
    present = [(one.kind, one.options) for one in following]
    wanted = [one for one in followers if (one.kind, one.options) not in present]
    return [QueuedJob(one.kind, options=one.options, after=job.id, group=job.group) for one in wanted]


def rows(root: Path, queue: Listing, group: str) -> list[Row]:
    """The runs of a sweep with their results, in their order."""
    jobs = queue.group(group)
    answers = {job.after: job for job in jobs if job.kind == "compare" and job.result.get("tuned")}
    return [_row(root, job, answers.get(job.id)) for job in jobs if job.kind == "tune"]


def best(found: Sequence[Row]) -> Row | None:
    """The run with the lowest held-out loss after it; None before the first."""
    ended = [row for row in found if row.loss is not None and row.state == "done"]
    return min(ended, key=lambda row: row.loss[1] if row.loss else 0.0, default=None)


def has_run(root: Path, run: str) -> bool:
    """Whether a run is still there."""
    try:
        return bool(runs.find(root, run))
    except PlaygroundError:
        return False


def can_resume(root: Path, job: QueuedJob) -> bool:
    """Whether an ended fine-tune has a checkpoint to go on from."""
    return job.kind == "tune" and has_run(root, job.run) and (root / job.run / "checkpoint.pt").is_file()


def _key(combination: dict[str, Any]) -> tuple:
    return tuple(sorted((name, str(value)) for name, value in combination.items()))


def _row(root: Path, job: QueuedJob, answer: QueuedJob | None) -> Row:
    result: dict[str, Any] = {}
    ended = 0.0
    if job.run and job.state in ("done", "stopped"):
        try:
            summary = runs.summary(root, job.run)
            result, ended = summary.result, summary.began + summary.seconds
        except (PlaygroundError, OSError):  # deleted meanwhile: its figures are gone with it
            result = {}
    peak = result.get("peak") if isinstance(result.get("peak"), dict) else {}
    sizes = [peak[total] for total in TOTALS if isinstance(peak.get(total), int)] if peak else []
    return Row(
        job=job.id,
        combination=job.combination,
        state=job.state,
        run=job.run,
        loss=pair_of(result.get("loss"), "before", "after"),
        facts=pair_of(result.get("recall"), "base", "tuned"),
        peak=next(iter(sizes), None),
        tokens_per_s=number(result.get("tokens_per_s")),
        seconds=number(result.get("seconds")),
        answer=str(answer.result["tuned"]) if answer and answer.began >= ended - ROUNDING_SECONDS else "",
        error=job.error,
    )
