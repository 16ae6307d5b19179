"""A run as programs see it: at a glance, and how far it is, followed through its events."""

import time
from typing import Any

from playground import runs
from playground.runs import Run, RunSummary
from playground.ui.api_types import RunRow, RunState
from playground.ui.live_view import FRESH, error_text
from playground.ui.page import Page

PATHS = ("adapter", "model", "path")  # fields of a result that name folders and files of this machine
ENDS = ("done", "error")  # kinds of events that end a job


def run_row(page: Page, run: RunSummary) -> RunRow:
    """A run at a glance. Its state is as on the Runs tab: running, done, stopped, failed, open."""
    running = page.engine.state == "busy" and page.engine.run == run.id
    loss, recall = run.result.get("loss"), run.result.get("recall")
    return {
        "id": run.id,
        "job": run.job,
        "state": "running" if running else run.state,
        "model": run.model,
        "bits": run.bits,
        "data": run.data,
        "began": run.began,
        "seconds": run.seconds,
        "has_adapter": run.has_adapter,
        "loss": loss if isinstance(loss, dict) else None,
        "recall": recall if isinstance(recall, dict) else None,
        "forgetting": run.forgetting or None,
    }


class RunProgress:
    """Follows one run: every call of `state` reads what was written since the last one."""

    def __init__(self, page: Page, run: Run, lang: str) -> None:
        self._page, self._run, self._lang = page, run, lang
        self._cursor = 0
        self._job = ""
        self._summary: RunSummary | None = None
        self._last: dict[str, Any] = {
            "phase": "",
            "step": 0,
            "steps": 0,
            "step_loss": None,
            "tokens_per_s": None,
            "left_s": None,
            "error": "",
        }

    def state(self) -> RunState:
        """The run now. Raises PlaygroundError once it is deleted."""
        before = -1
        while before != self._cursor:
            before = self._cursor
            events, self._cursor = self._run.since(self._cursor)
            for event in events:
                self._take_in(event)
        summary = self._summary = self._summary or runs.summary(self._page.root, self._run.id)
        result = {name: value for name, value in summary.result.items() if name not in PATHS}
        return {**run_row(self._page, summary), **self._last, "result": result}  # type: ignore[typeddict-item]

    def look(self) -> tuple[bool, RunState]:
        """Whether more is to be expected, and the run now: after its end, the state is the last one."""
        return self.is_live(), self.state()

    def is_live(self) -> bool:
        """Whether more is to be expected: from this program's engine, or from another that has just written to it."""
        if self._page.engine.state == "busy" and self._page.engine.run == self._run.id:
            return True
        summary = runs.summary(self._page.root, self._run.id)
        written = (self._run.folder / "events.jsonl").stat().st_mtime
        return summary.state == "open" and abs(time.time() - written) < FRESH

    def _take_in(self, event: dict) -> None:
        """Note what an event changes."""
        kind, last = event["kind"], self._last
        if kind == "run_started":
            self._job = self._job or event.get("job", "")
        elif kind == "phase":
            last["phase"] = event.get("name", "")
        elif kind == "step":
            last |= {name: event.get(name) for name in ("step", "steps", "tokens_per_s", "left_s")}
            last |= {"step_loss": event.get("loss"), "error": ""}
        if kind in ENDS:
            self._summary = None  # read again: it has ended
            if event.get("job") == self._job:
                last["error"] = error_text(event, self._lang) if kind == "error" else ""
