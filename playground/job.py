"""A job of the engine as the page's process sees it: its events, for any number of readers, and how it ended."""

import threading
from collections.abc import Iterator
from pathlib import Path

from playground.errors import PlaygroundError

LEFT_LINE = "shared.left_line"  # the key of the problem of a job that was stopped before its turn

KINDS = ("load", "tune", "chat", "lab", "export", "unload")


class Job:
    """A job under way or ended. Any number of threads can read its events, each from the first one on.

    do: one of KINDS. resumes: the id of the run that it continues, if any. run:
    the id of its run, once that is open; root: the folder of its runs, once the engine has it. stopping: whether it was
    asked to stop. result: of its `done` event. error: why it failed, if it did.
    """

    def __init__(self, do: str, resumes: str | None = None):
        self.do = do
        self.resumes = resumes
        self.run: str | None = None
        self.root: Path | None = None
        self.ended = self.stopping = False
        self.error: PlaygroundError | None = None
        self.result: dict = {}
        self._events: list[dict] = []
        self._changed = threading.Condition()

    def events(self) -> Iterator[dict]:
        """Every event, waiting for the next one until the job has ended. Raises PlaygroundError if it failed."""
        for batch in self._batches():
            yield from batch

    def latest(self) -> Iterator[dict]:
        """Like `events`, but without outdated answers: each `answer` event has the whole text so far."""
        for batch in self._batches():
            for event, following in zip(batch, [*batch[1:], {"kind": ""}]):
                if event["kind"] != "answer" or following["kind"] != "answer":
                    yield event

    def _batches(self) -> Iterator[list[dict]]:
        """The events that arrived since the last batch, as soon as there are any."""
        position = 0
        while batch := self._wait_for_events(position):
            position += len(batch)
            yield batch
        if self.error:
            raise self.error

    def _wait_for_events(self, position: int) -> list[dict]:
        """The events from `position` on, as soon as there are any; [] once the job has ended without more."""
        with self._changed:
            self._changed.wait_for(lambda: position < len(self._events) or self.ended)
            return self._events[position:]

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended; whether it has, after at most `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ended, timeout)

    def add(self, event: dict) -> None:
        """Append an event."""
        with self._changed:
            if event["kind"] == "opened":
                self.run = event["run"]
            elif event["kind"] == "done":
                self.result = event.get("result", {})
            self._events.append(event)
            self._changed.notify_all()

    def end(self, error: PlaygroundError | None) -> None:
        """Mark the job as ended, with `error` if it failed."""
        with self._changed:
            self.ended, self.error = True, error
            self._changed.notify_all()


def was_stopped(error: Exception) -> bool:
    """Whether a job ended with this error because a person stopped it while it waited for its turn."""
    return isinstance(error, PlaygroundError) and any(one.key == LEFT_LINE for one in error.problems)
