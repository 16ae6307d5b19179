"""Work off the queue: one job after another on the engine, from the page's process or from a command.

A program works off only what its own person started: waiting jobs of an earlier program wait until `go_on`.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from playground.errors import PlaygroundError, as_playground_error, problem
from playground.job import Job, was_stopped
from playground.jobs import kinds, store
from playground.jobs.owner import Owner
from playground.jobs.store import Listing, QueuedJob

POLL_SECONDS = 0.3
Added = TypeVar("Added")
UNFINISHED = ("waiting", "running", "interrupted")  # states of a job for whose run another one waits


class Runner:
    """Starts waiting jobs in their order, until none is left or it is paused. One for each program.

    engine: has the engine client's methods. is_blocked: whether something else has the engine next, such as the guided
    demo between two of its jobs. on_start: called with each job and the engine's job of it. group: the sweep or chain
    that it works off alone; "" for all. error: why it ended, where the queue itself couldn't be read or written.
    """

    def __init__(
        self,
        root: Path,
        engine: Any,
        is_blocked: Callable[[], bool] = lambda: False,
        on_start: Callable[[QueuedJob, Job], object] = lambda queued, job: None,
        group: str = "",
    ) -> None:
        self.root, self.engine = root, engine
        self.error: PlaygroundError | None = None
        self.has_worked = False  # whether it has worked off anything since the program's start
        self._is_blocked, self._on_start, self._group = is_blocked, on_start, group
        self._owner = Owner(root)
        self._changing = threading.Lock()
        self._going = self._pausing = False

    @property
    def going(self) -> bool:
        """Whether it works off the queue."""
        return self._going

    def start_after(self, adding: Callable[[], Added]) -> Added:
        """Add jobs, and start unless a person left others waiting. Returns what `adding` returns."""
        left_waiting = bool(store.listing(self.root).in_state("waiting"))
        added = adding()
        if not left_waiting:
            with suppress(PlaygroundError):  # another program works off the queue: the view says which
                self.go_on()
        return added

    def go_on(self) -> None:
        """Work off what waits, in the background. Raises PlaygroundError where another program does."""
        if self._begin():
            threading.Thread(target=self._work, daemon=True).start()

    def work(self) -> None:
        """Work off what waits, in this thread. Raises PlaygroundError where another program does."""
        if self._begin():
            self._work()
        if self.error:
            raise self.error

    def pause(self) -> None:
        """Stop the job under way, and leave the others waiting."""
        self._pausing = True

    def _begin(self) -> bool:
        """Take hold of the queue; returns whether the caller is to work it off."""
        with self._changing:
            if self._going:
                return False
            self._owner.take()
            self._going, self._pausing, self.error, self.has_worked = True, False, None, True
            return True

    def _work(self) -> None:
        try:
            while job := self._next():
                self._run(job)
        except BaseException as error:
            with self._changing:
                self._rest()
            if not isinstance(error, Exception):
                raise
            self.error = as_playground_error(error)

    def _rest(self) -> None:
        """Leave the queue; under the lock, so that what is added from here on starts it again."""
        self._going = False
        self._owner.release()

    def _next(self) -> QueuedJob | None:
        """The job to run now, once the engine is free; None when nothing is left, or it was paused."""
        while True:
            with self._changing:
                job = None if self._pausing else next_job(store.listing(self.root), self._group)
                if job is None:
                    self._rest()
                    return None
            if self.engine.state != "busy" and not self._is_blocked():
                return job
            time.sleep(POLL_SECONDS)

    def _run(self, job: QueuedJob) -> None:
        """Run one job to its end and record it. Raises OSError where the queue can't be written."""
        try:
            started = kinds.start(self.engine, self.root, job, run_used(job, store.listing(self.root)))
        except Exception as error:
            shown = as_playground_error(error)
            if any(one.key == "error.busy" for one in shown.problems):
                time.sleep(POLL_SECONDS)
                return  # somebody was faster: it still waits
            self._end(job, state="failed", error=shown.to_dict())
            return
        try:
            self._record(job, state="running", began=time.time(), stop="", error={}, result={})
            self._on_start(job, started)
            self._follow(job, started)
        except BaseException:
            self.engine.stop_job(started)  # nobody would record its end
            raise

    def _follow(self, job: QueuedJob, started: Job) -> None:
        run, asked = job.run, ""
        while not started.wait(POLL_SECONDS):
            if started.run and started.run != run:
                run = started.run
                self._record(job, run=run)
            asked = "all" if self._pausing else asked or stop_asked(self.root, job.id)
            if asked and not started.stopping:
                self.engine.stop_job(started)
        run = started.run or run
        left_line = started.error is not None and was_stopped(started.error)
        stopped = left_line or bool(started.result.get("stopped"))
        # Whoever stops a job elsewhere wants the machine to rest, also where it then ends with an error.
        self._pausing |= (stopped or started.stopping) and asked != "job"
        if started.error and not left_line:
            state = "interrupted" if self._pausing else "failed"
            self._end(job, state=state, run=run, error=started.error.to_dict())
            return
        outcome = kinds.KINDS[job.kind].outcome(started)
        self._end(job, state="stopped" if stopped else "done", run=run, result=outcome)
        with suppress(PlaygroundError):  # as in _end
            store.again_if_outdated(self.root, job.id)

    def _end(self, job: QueuedJob, **values: Any) -> None:
        with suppress(PlaygroundError):  # another program holds the queue's lock: its owner marks the job later
            self._record(job, ended=time.time(), stop="", resume=False, **values)

    def _record(self, job: QueuedJob, **values: Any) -> None:
        """Change a job's file. One whose file was removed by hand meanwhile goes on without."""
        try:
            store.change(self.root, job.id, **values)
        except PlaygroundError as error:
            if not any(one.key == "error.queue_gone" for one in error.problems):
                raise


def next_job(queue: Listing, group: str = "") -> QueuedJob | None:
    """The first waiting job of that group, "" for any, that doesn't wait for the run of an unfinished one."""
    states = {job.id: job.state for job in queue.jobs}
    waiting = (job for job in queue.in_state("waiting") if group in ("", job.group))
    return next((job for job in waiting if states.get(job.after) not in UNFINISHED), None)


def run_used(job: QueuedJob, queue: Listing) -> str:
    """The run that a job uses, "" if its kind uses none. Raises PlaygroundError where there won't be one."""
    if job.kind not in kinds.KINDS or not kinds.KINDS[job.kind].needs_run:
        return ""
    if job.uses:
        return job.uses
    before = next((one for one in queue.jobs if one.id == job.after), None)
    if before is None or not before.run or before.state not in ("done", "stopped"):
        raise problem("error.queue_before")
    return before.run


def stop(root: Path, job_id: str, how: str = "job") -> None:
    """Ask whatever program runs a job to stop it; how: "job", or "all" to leave the others waiting too."""
    if store.read(root, job_id).state != "running":
        raise problem("error.queue_not_running", id=str(job_id)[:40])
    store.change(root, job_id, stop=how)


def stop_asked(root: Path, job_id: str) -> str:
    """What a person asked of a running job: "", "job" or "all"."""
    try:
        return store.read(root, job_id).stop
    except PlaygroundError:  # its file was removed by hand: it goes on
        return ""
