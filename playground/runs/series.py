"""A run's curves: losses over its steps, memory over time. Read in one pass, and thinned to what a picture can show.

Memory is recorded ten times a second, so nearly all lines are about it: the bytes are searched in them, unparsed.
100,000 lines take 0.8 s of one core (AMD EPYC); parsing them alone takes 1.2 s.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from playground.runs import store
from playground.runs.summary import TOTALS, dict_of, number
from playground.runs.thinning import thin_line

MOST_POINTS = 400  # of a curve
MOST_READ = 50_000  # points kept while reading, before they are thinned to a fifth
LONGEST_PAUSE, SHORTENED_PAUSE = 5.0, 1.0  # seconds, as in assets/live_reducer.js: until a resume nothing is recorded
MEMORY_LINE = re.compile(rb'\{"t":(-?\d+(?:\.\d+)?),"kind":"memory",')
OF_GPU, OF_PROGRAM = re.compile(rb'"device(?:_used)?":(\d+)[,}]'), re.compile(rb'"rss":(\d+)[,}]')  # as TOTALS
PASSING_LINE = re.compile(rb'\{"t":[-+.\de]+,"kind":"(?:progress|sample)",')  # no curve is made of these
KEPT_NOTES = ("note.best_kept", "note.stopped_early")  # which weights are kept at the end

Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class RunSeries:
    """The curves of one run; all are empty where it has none.

    losses: (step, training loss); held_out: (step, loss), before the training at step 0; memory: (seconds since the
    run began, bytes of the whole GPU or program), up to the end of its own job, pauses between two sessions shortened;
    predicted: (from second, to second, bytes), the peak predicted for its own job, or None; not_finite: the first step
    whose loss was no finite number, or None; failed_parts: bytes of each part when memory ran out; versions: of the
    libraries.
    """

    losses: Curve = ()
    held_out: Curve = ()
    memory: Curve = ()
    predicted: tuple[float, float, int] | None = None
    not_finite: int | None = None
    failed_parts: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def read_series(root: Path, run_id: str) -> RunSeries:
    """The curves of a run. Raises PlaygroundError as `store.find` does."""
    run = store.find(root, run_id)
    state = (run.folder / "events.jsonl").stat()
    return _read(run.folder, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _read(folder: Path, modified: int, size: int) -> RunSeries:
    """The curves, read once for each state of the file, which `modified` and `size` tell apart."""
    reader = _Reader()
    for line in store.Run(folder).lines():
        reader.read(line)
    return reader.series()


class _Reader:
    """Takes a run's lines in, one by one."""

    def __init__(self) -> None:
        self._job: Any = None
        self._time = self._shortened = 0.0
        self._losses: list[tuple[float, float]] = []
        self._during: dict[float, float] = {}
        self._before: float | None = None
        self._after: tuple[float, float] | None = None
        self._last_step = 0.0
        self._kept_step: float | None = None
        self._memory: list[tuple[float, float]] = []
        self._ended: float | None = None
        self._predicted: tuple[float, float | None, int] | None = None
        self._not_finite: int | None = None
        self._failed_parts: dict[str, int] = {}
        self._versions: dict[str, str] = {}

    def read(self, line: bytes) -> None:
        """Take one line in. What can't be read is passed over."""
        if found := MEMORY_LINE.match(line):
            size = (OF_GPU if b'"device' in line else OF_PROGRAM).search(line, found.end())
            if size:
                self._add_memory(self._seconds(float(found[1])), int(size[1]))
            return
        event = None if PASSING_LINE.match(line) else store.parse_event(line)
        if event is None:
            return
        x = self._seconds(number(event["t"]) or 0.0)
        handle = getattr(self, f"_on_{event['kind']}", None) if event["kind"] in HANDLED else None
        if handle:
            handle(event, x)

    def series(self) -> RunSeries:
        """The curves of all lines so far."""
        end = self._time - self._shortened if self._ended is None else self._ended
        memory = [point for point in self._memory if point[0] <= end]
        begin, to, size = self._predicted or (0.0, None, 0)
        held_out = {0.0: self._before} if self._before is not None else {}
        held_out |= self._during | (dict([self._after]) if self._after else {})
        return RunSeries(
            losses=tuple(thin_line(self._losses, MOST_POINTS)),
            held_out=tuple(thin_line(sorted(held_out.items()), MOST_POINTS)),
            memory=tuple(thin_line(memory, MOST_POINTS)),
            predicted=(begin, end if to is None else to, size) if size else None,
            not_finite=self._not_finite,
            failed_parts=self._failed_parts,
            versions=self._versions,
        )

    def _seconds(self, t: float) -> float:
        """The time of an event on the axis; it never runs backwards, as a clock may."""
        pause = t - self._time
        if pause > LONGEST_PAUSE:
            self._shortened += pause - SHORTENED_PAUSE
        self._time = max(self._time, t)
        return round(self._time - self._shortened, 3)

    def _add_memory(self, x: float, size: float) -> None:
        self._memory.append((x, size))
        if len(self._memory) > MOST_READ:
            self._memory = thin_line(self._memory, MOST_READ // 5)

    def _on_memory(self, event: Mapping, x: float) -> None:
        """A line that isn't written as this program writes it."""
        size = next((number(event[kind]) for kind in TOTALS if number(event.get(kind))), None)
        if size:
            self._add_memory(x, size)

    def _on_run_started(self, event: Mapping, x: float) -> None:
        if self._job is None:
            self._job = event.get("job")
            self._versions = {str(name): str(text) for name, text in dict_of(event, "versions").items()}

    def _on_step(self, event: Mapping, x: float) -> None:
        step, loss = number(event.get("step")), number(event.get("loss"))
        if step is None:
            return
        self._ended, self._last_step = None, step
        while self._losses and self._losses[-1][0] >= step:  # repeated from a checkpoint
            self._losses.pop()
        if loss is not None:
            self._losses.append((step, loss))
        elif self._not_finite is None and "loss" in event:
            self._not_finite = int(step)
        if len(self._losses) > MOST_READ:
            self._losses = thin_line(self._losses, MOST_READ // 5)

    def _on_eval(self, event: Mapping, x: float) -> None:
        when, step, loss = event.get("when"), number(event.get("step")), number(event.get("loss"))
        if loss is None:
            return
        if when == "before":
            self._before = loss
        elif when == "after":
            self._after = (self._last_step if self._kept_step is None else self._kept_step, loss)
        elif when == "during" and step is not None:
            self._during = {at: earlier for at, earlier in self._during.items() if at < step} | {step: loss}

    def _on_note(self, event: Mapping, x: float) -> None:
        if event.get("key") in KEPT_NOTES:
            self._kept_step = number(dict_of(event, "values").get("step"))

    def _on_phase(self, event: Mapping, x: float) -> None:
        if event.get("name") == "data":  # a fine-tune begins, or an ended one is resumed
            self._kept_step = None

    def _on_memory_predicted(self, event: Mapping, x: float) -> None:
        size = next((number(event[kind]) for kind in TOTALS if number(event.get(kind))), None)
        if event.get("phase") == self._job and size:
            self._predicted = (x, None, int(size))

    def _on_memory_measured(self, event: Mapping, x: float) -> None:
        if event.get("phase") == self._job and self._predicted:
            self._predicted = (self._predicted[0], x, self._predicted[2])

    def _on_error(self, event: Mapping, x: float) -> None:
        if event.get("job") == self._job:
            self._ended = x
            sizes = {str(part): number(size) for part, size in dict_of(event, "parts").items()}
            self._failed_parts = {part: int(size) for part, size in sizes.items() if size and size > 0}

    def _on_done(self, event: Mapping, x: float) -> None:
        if event.get("job") == self._job:  # else a chat with its adapter, which comes after the end
            self._ended, self._failed_parts = x, {}


HANDLED = {name.removeprefix("_on_") for name in vars(_Reader) if name.startswith("_on_")}
