"""Run one job: keep its events in its run, measure memory all along, and record how it ended, whatever happens."""

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import torch
from torch import nn

from playground.background import Stopped
from playground.ending import ENDING, PARENT, EndReport
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
    layers_in_buffers: which of its streamed layers are on the device now (StreamedLayers.states), or None. optimizer:
    that of the fine-tune under way, for the ledger. keep: writes what was learned so far to a checkpoint and returns
    the step that is in it, None where there is none; another thread may call it. report: on the job's end.
    """

    run: Run
    stop: threading.Event
    team: Team
    peaks: PeakTracker
    get_model: Callable[[], nn.Module | None]
    layers_in_buffers: Callable[[], dict[str, list[int]] | None] = lambda: None
    optimizer: torch.optim.Optimizer | None = None
    keep: Callable[[], int | None] = lambda: None
    report: EndReport = field(default_factory=EndReport)

    @property
    def predicts_answers(self) -> bool:
        """Whether answers are predicted, of what this process takes: not where split weights wait in main memory."""
        return not self.team.offloads

    @property
    def is_alone(self) -> bool:
        """Whether this is the only process and holds all weights."""
        return self.team.size == 1 and not self.team.sharded

    def record_memory(self, reading: dict[str, int], **more: Any) -> None:
        """Record a `memory` event: a reading of the meter, and where the layers are that are streamed."""
        buffers = self.layers_in_buffers()
        self.run.append("memory", **reading, **({"buffers": buffers} if buffers else {}), **more)

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
    run, began = context.run, time.monotonic()
    yield {"kind": "opened", "run": run.id}
    with _metered(context), _ended_in_order(context, kind):
        try:
            with card_limit.limit_cuda_memory(load, context.team.device, context.team.size):
                result = yield from _recorded(context, work)
            outcome = {"seconds": round(time.monotonic() - began, 2), **_outcome(context), **result.to_json()}
            yield from _recorded_end(context, kind, outcome, context.keep())
            return True
        except Stopped:
            yield from _recorded_end(context, kind, _outcome(context) | {"stopped": True})
            return False
        except Exception as error:
            if _ended_with_others(context, error):
                step = context.keep()
                outcome = _outcome(context) | {"stopped": True, "checkpoint": step is not None}
                yield from _recorded_end(context, kind, outcome, step)
                return False
            shown, memory = explain_failure(error, context, load)
            with context.report.once() as is_first:
                if is_first:
                    run.append("phase", name="idle")
                    run.append("error", job=kind, **shown.to_dict(), **memory)
            raise shown from error
        finally:
            run.settle()


def _outcome(context: JobContext) -> dict:
    """What the result of every job says; `ended_by`: a signal's name or "parent", where the process is ending."""
    ended = {"ended_by": ENDING.cause} if ENDING.cause else {}
    peak = context.peaks.job_peak()
    return {"run": context.run.id, "stopped": context.stop.is_set(), "peak": peak, **ended}


def _recorded_end(context: JobContext, kind: str, outcome: dict, step: int | None = None) -> Iterator[dict]:
    """Record the end of a job, unless that was done from another thread meanwhile, and yield its events.

    step: of the checkpoint that the run is resumed from.
    """
    with context.report.once() as is_first:
        events = _end_events(kind, outcome, step) if is_first else []
        recorded = [_record(context, event) for event in events]
    yield from recorded


def _end_events(kind: str, outcome: dict, step: int | None) -> list[dict]:
    """The last events of a job. step: of the checkpoint that the run is resumed from."""
    notes = []
    if ENDING.cause:
        key = "note.ended_parent" if ENDING.cause == PARENT else "note.ended_signal"
        notes = [{"kind": "note", "key": key, "values": {} if ENDING.cause == PARENT else {"signal": ENDING.cause}}]
    if ENDING.cause and step:
        notes.append({"kind": "note", "key": "note.ended_kept", "values": {"step": step}})
    return [*notes, {"kind": "phase", "name": "idle"}, {"kind": "done", "job": kind, "result": outcome}]


@contextlib.contextmanager
def _ended_in_order(context: JobContext, kind: str) -> Iterator[None]:
    """Within it, the end of the process stops the job; what doesn't stop in time is recorded from another thread.

    Of several processes, only the main one records it, and it isn't stopped: the others may be gone already, and it may
    hang in a collective.
    """

    def stop(cause: str) -> None:
        if context.team.size == 1:
            context.stop.set()

    def close(cause: str) -> None:
        step = context.keep()
        with context.report.once() as is_first:
            died = cause == "SIGTERM" and not context.stop.is_set()  # launchers send it when a process has died
            if is_first and context.team.size > 1 and died:
                context.run.append("phase", name="idle")
                context.run.append("error", job=kind, **problem("error.rank_died").to_dict())
            elif is_first:
                outcome = _outcome(context) | {"stopped": True, "checkpoint": step is not None}
                for event in _end_events(kind, outcome, step):
                    context.run.append(**event)
        context.run.settle()

    with ENDING.work(stop, close) if context.team.main else contextlib.nullcontext():
        yield


def _ended_with_others(context: JobContext, error: Exception) -> bool:
    """Whether the other processes are gone because all were asked to: this one had no time to stop by itself."""
    was_asked = context.stop.is_set() or ENDING.cause == PARENT
    return context.team.size > 1 and was_asked and is_lost_peer(error)


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


@contextlib.contextmanager
def _metered(context: JobContext) -> Iterator[None]:
    """Within it, memory is measured ten times a second, recorded in the run and taken into the peaks."""

    def on_reading(reading: dict[str, int]) -> None:
        context.peaks.update(reading)
        with context.report.before() as is_under_way:
            if is_under_way:
                context.record_memory(reading)

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
        if context.run.has_new_fault():
            yield _record(context, _fault_note(context.run))


def _fault_note(run: Run) -> dict:
    """That the run's folder can't be written any more, and where its record and what it learns are kept instead."""
    spare, (path, detail) = run.spare(), run.fault or ("", "")
    values = {"path": path, "detail": detail, "kept": str(spare or "")}
    return {"kind": "note", "key": "note.run_fault" if spare else "note.run_fault_memory", "values": values}


def _record(context: JobContext, event: dict) -> dict:
    """The event as recorded, with its time; phases and the first steps are followed by the ledger of that moment."""
    if event["kind"] == "answer":  # what people say to a model stays out of the run
        return event
    recorded = context.run.append(**event)
    if event["kind"] == "phase" or (event["kind"] == "step" and event["step"] <= LEDGER_STEPS):
        context.record_memory(meter.read_memory(), parts=context.bytes_by_part())
    return recorded
