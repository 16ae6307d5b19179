"""Run one job: keep its events in its run, measure memory all along, and record how it ended, whatever happens."""

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import nn

from playground.background import Stopped
from playground.engine import predictions
from playground.errors import PlaygroundError, Problem, as_playground_error, problem
from playground.memory import card_limit, ledger, meter
from playground.memory.peaks import PeakTracker
from playground.runs import Run
from playground.settings import Load
from playground.train.parallel import Team, is_lost_peer

LEDGER_STEPS = 2  # steps that are recorded with a ledger: the first one allocates the optimizer's state

Result = TypeVar("Result")


@dataclass
class JobContext:
    """What every part of a job needs: where it writes, how it is stopped, who takes part, and how memory is measured.

    get_model: the model in memory now, or None (a function, since a reference here would keep a freed model alive).
    optimizer: that of the fine-tune under way, for the ledger.
    """

    run: Run
    stop: threading.Event
    team: Team
    peaks: PeakTracker
    get_model: Callable[[], nn.Module | None]
    optimizer: torch.optim.Optimizer | None = None

    @property
    def predicts_memory(self) -> bool:
        """Whether phases are predicted: predictions are of one process that holds all weights."""
        return self.team.size == 1 and not self.team.sharded

    def bytes_by_part(self) -> dict[str, int]:
        """The ledger now: exact bytes of the model's and the optimizer's tensors."""
        return ledger.bytes_by_part(self.get_model(), self.optimizer)


@dataclass
class JobResult:
    """Base of the jobs' results, which become the `result` of their `done` event."""

    def to_json(self) -> dict:
        """{field: value}, without the optional fields (those that default to None) that are None."""
        values = ((field, getattr(self, field.name)) for field in fields(self))
        return {field.name: value for field, value in values if value is not None or field.default is not None}


def run_job(
    context: JobContext, kind: str, load: Load, work: Generator[dict, None, JobResult]
) -> Generator[dict, None, bool]:
    """Yield the events of a job as they are recorded in its run; return whether it came to its end.

    kind: "load", "tune", "chat" or "lab". work: yields the job's events and returns its result. The first event is
    `opened` {"run"}, the last one `done`, also of a job that was stopped. Raises PlaygroundError for one that failed,
    after recording an `error` event, with a ledger where memory ran out.
    """
    run, began = context.run, time.time()
    context.team.report_on_sigterm(lambda: _record_lost_process(run, kind))
    yield {"kind": "opened", "run": run.id}
    with _metered(context):
        try:
            with card_limit.limit_cuda_memory(load, context.team.device):
                result = yield from _recorded(context, work)
            outcome = {
                "run": run.id,
                "seconds": round(time.time() - began, 2),
                "stopped": context.stop.is_set(),
                "peak": context.peaks.job_peak(),
                **result.to_json(),
            }
            yield from _recorded_all(
                context, [{"kind": "phase", "name": "idle"}, {"kind": "done", "job": kind, "result": outcome}]
            )
            return True
        except Stopped:
            run.append("phase", name="idle")
            outcome = {"run": run.id, "stopped": True, "peak": context.peaks.job_peak()}
            yield run.append("done", job=kind, result=outcome)
            return False
        except Exception as error:
            shown, memory = explain_failure(error, context, load)
            with context.team.report_once() as is_first:
                if is_first:
                    run.append("phase", name="idle")
                    run.append("error", job=kind, **shown.to_dict(), **memory)
            raise shown from error


def explain_failure(error: Exception, context: JobContext, load: Load) -> tuple[PlaygroundError, dict]:
    """The error that is shown, and where memory ran out its ledger: {"parts", "peak", "capacity"} in bytes, else {}."""
    if context.team.size > 1 and is_lost_peer(error):
        return problem("error.rank_died"), {}
    if not meter.is_out_of_memory(error):
        return as_playground_error(error), {}
    on_gpu = isinstance(error, torch.OutOfMemoryError)
    peak = context.peaks.phase_peak()
    capacity = card_limit.capacity(load, "cuda" if on_gpu else context.team.device)
    if on_gpu and load.simulate_gpu_gib:  # what other processes use of the real card isn't on the simulated one
        peak["device_used"] = min(peak["device_used"], peak["reserved"] + card_limit.MAX_RUNTIME_BYTES)
    parts = predictions.full_ledger(context.bytes_by_part(), peak)
    changeable = [part for part in parts if part != "runtime"]  # nobody can do anything about the runtime's share
    largest = max(changeable, key=lambda part: parts[part], default="weights")
    used, part_bytes = peak["device_used"] if on_gpu else peak["rss"], parts.get(largest, 0)
    problems = [
        Problem(
            "error.out_of_memory",
            {"used_bytes": used, "capacity_bytes": capacity, "part": largest, "part_bytes": part_bytes},
        )
    ]
    if asked := meter.failed_allocation(error):
        problems.append(Problem("error.failed_allocation", {"asked_bytes": asked}))
    return PlaygroundError(*problems), {"parts": parts, "peak": peak, "capacity": capacity}


def _record_lost_process(run: Run, kind: str) -> None:
    run.append("error", job=kind, **problem("error.rank_died").to_dict())


@contextlib.contextmanager
def _metered(context: JobContext) -> Iterator[None]:
    """Within it, memory is measured ten times a second, recorded in the run and taken into the peaks."""

    def on_reading(reading: dict[str, int]) -> None:
        context.peaks.update(reading)
        context.run.append("memory", **reading)

    gauge = meter.Meter(on_reading)
    gauge.take()
    gauge.start()
    try:
        yield
    finally:
        gauge.stop()


def _recorded(context: JobContext, work: Generator[dict, None, Result]) -> Generator[dict, None, Result]:
    """Record each event in the run and pass it on; return what `work` returns."""
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            return end.value
        yield _record(context, event)


def _recorded_all(context: JobContext, events: Iterable[dict]) -> Iterator[dict]:
    for event in events:
        yield _record(context, event)


def _record(context: JobContext, event: dict) -> dict:
    """The event as recorded, with its time; phases and the first steps are followed by the ledger of that moment."""
    if event["kind"] == "answer":  # what people say to a model stays out of the run
        return event
    recorded = context.run.append(**event)
    if event["kind"] == "phase" or (event["kind"] == "step" and event["step"] <= LEDGER_STEPS):
        context.run.append("memory", **meter.read_memory(), parts=context.bytes_by_part())
    return recorded
