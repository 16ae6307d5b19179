"""A workspace is what one person has on the page: a folder of runs, the engine, the planner, the demo and the queues.

On a private page there is one, and whoever opens the page sees everything. On a page that strangers open each visitor
has one, found by the request that is being answered, so every handler, endpoint and server function that goes through
`Page` sees that visitor's things alone: whose a run is, is decided by the folder that it lies in, at this one place.

    runs/.visitors/secret                the key of the cookies
    runs/.visitors/<visitor>/            a visitor's runs, with their queue, index and trash
    $PLAYGROUND_CACHE/uploads/           uploads under opaque names (data/uploads.py)
"""

import os
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from playground import runs
from playground.data import uploads
from playground.engine.client import Engine
from playground.errors import problem
from playground.jobs.runner import Runner
from playground.planning.client import OnProgress, Planner
from playground.runs.disk import bytes_in
from playground.runs.store import VISITORS
from playground.settings.limits import Limits
from playground.ui.engine_line import EngineLine
from playground.ui.job_queue import JobQueue
from playground.ui.live_answers import LiveAnswers
from playground.ui.story import Story
from playground.ui.visitor_engine import VisitorEngine
from playground.ui.visitors import current_visitor

MAX_WORKSPACES = 500  # in memory; those without a visit for longest are closed, their folders stay
TIDY_SECONDS = 60.0
GONE = ".gone-"  # begins the name of a folder that is being removed


class Workspace:
    """One person's things. visitor: their opaque name, "" on a private page."""

    def __init__(self, visitor: str, root: Path, engine: Engine, planner: Planner) -> None:
        self.visitor, self.root, self.engine, self.planner = visitor, root, engine, planner
        self.story, self.queue, self.talk = Story(engine), JobQueue(engine), LiveAnswers(root, engine)
        self.jobs = Runner(root, engine, lambda: self._in_sequence)
        self.foreign_bases: dict[str, str] = {}  # what adapters from elsewhere name, "" for none that is here
        self.seen = time.monotonic()  # a clock that is set forward makes nobody's visit older

    @property
    def is_working(self) -> bool:
        """Whether something of it runs or waits."""
        return self.engine.job is not None or self.jobs.going or self._in_sequence

    @property
    def _in_sequence(self) -> bool:
        """Whether something that starts one job after another has the engine next."""
        return self.story.running or self.queue.running or self.talk.running


class VisitorPlanner(Planner):
    """The planner that all share, as one visitor sees it: nobody stops another's question."""

    def __init__(self, planner: Planner) -> None:
        self._shared = planner

    def ask(self, do: str, on_progress: OnProgress | None = None, asker: object = None, **arguments: Any) -> Any:
        return self._shared.ask(do, on_progress, asker or self, **arguments)

    def stored_answer(self, do: str, **arguments: Any) -> Any:
        return self._shared.stored_answer(do, **arguments)

    def stop(self, do: str, asker: object = None) -> None:
        self._shared.stop(do, asker or self)

    def close(self) -> None:
        """Nothing: the processes are everyone's."""

    def pid(self, do: str) -> int | None:
        return self._shared.pid(do)


class Workspaces:
    """Every visitor's workspace, made when it is first needed. Safe to use from several threads.

    forget: called with a visitor whose runs and uploads have been removed.
    """

    def __init__(
        self, root: Path, engine: Engine, planner: Planner, limits: Limits, forget: Callable[[str], None]
    ) -> None:
        self.folder, self.limits = (root / VISITORS).resolve(), limits
        self.line = EngineLine(engine, limits)
        self._planner, self._forget = planner, forget
        self._known: OrderedDict[str, Workspace] = OrderedDict()
        self._lock = threading.Lock()
        self.tidy()
        self._closed = threading.Event()
        threading.Thread(target=self._keep_tidy, daemon=True).start()

    def current(self) -> Workspace:
        """The workspace of the visitor whose request is being answered."""
        return self.of(current_visitor())

    def of(self, visitor: str) -> Workspace:
        """A visitor's workspace."""
        with self._lock:
            found = self._known.get(visitor)
            if found is None:
                root = self.folder / visitor
                checks = partial(self.raise_if_over, visitor), partial(self.raise_if_full, visitor)
                engine = VisitorEngine(root, self.line, *checks)
                found = self._known[visitor] = Workspace(visitor, root, engine, VisitorPlanner(self._planner))
            self._known.move_to_end(visitor)
            found.seen = time.monotonic()
            if len(self._known) > MAX_WORKSPACES:
                for other in [name for name, one in self._known.items() if not one.is_working][:1]:
                    del self._known[other]
            return found

    def raise_if_over(self, visitor: str, more: int = 0) -> None:
        """Raise PlaygroundError where a visitor has as many runs, or as many bytes with `more`, as one may have."""
        root, limits = self.folder / visitor, self.limits
        count = len(runs.history(root))
        if count >= limits.runs:
            raise problem("shared.runs", count=count, most=limits.runs)
        self.raise_if_full(visitor, more)

    def raise_if_full(self, visitor: str, more: int = 0) -> None:
        """Raise PlaygroundError where a visitor has, or all have, as many bytes with `more` as they may have."""
        raise_if_full(self.folder, visitor, self.limits, more)

    def close(self) -> None:
        """Tidy no more."""
        self._closed.set()

    def tidy(self) -> None:
        """Remove the runs and uploads of visitors who haven't been here for long and have nothing under way."""
        folders = [path for path in self.folder.iterdir() if path.is_dir()] if self.folder.is_dir() else []
        named = {path.name for path in folders if uploads.OWNER_NAME.fullmatch(path.name)}
        gone = [path for path in folders if path.name.startswith(GONE)]  # of a program that ended meanwhile
        for visitor in named | uploads.owners():
            with self._lock:
                if not self._is_forgotten(visitor):
                    continue
                self._known.pop(visitor, None)
                self._forget(visitor)
                gone += uploads.folders_of(visitor)  # those of now: a visitor who comes back has others
                with suppress(FileNotFoundError):
                    gone.append((self.folder / visitor).rename(self.folder / f"{GONE}{secrets.token_hex(8)}"))
        for folder in gone:
            shutil.rmtree(folder, ignore_errors=True)

    def _is_forgotten(self, visitor: str) -> bool:
        known = self._known.get(visitor)
        if known:
            return not known.is_working and time.monotonic() - known.seen >= self.limits.kept
        # Of a program that ended, or of another one with the same cache.
        changes = [_last_change(folder) for folder in (self.folder / visitor, *uploads.folders_of(visitor))]
        return time.time() - max(changes) >= self.limits.kept

    def _keep_tidy(self) -> None:
        while not self._closed.wait(TIDY_SECONDS):
            with suppress(Exception):  # a full disk or a file that just went; the next round sees the rest
                self.tidy()


def raise_if_full(folder: Path, visitor: str, limits: Limits, more: int = 0) -> None:
    """Raise PlaygroundError where a visitor has, or all have, as many bytes with `more` as they may have.

    folder: of all visitors.
    """
    size = bytes_in(folder / visitor) + uploads.bytes_of(visitor) + more
    if size > limits.disk:
        raise problem("shared.disk", size_bytes=size, most_bytes=limits.disk)
    if bytes_in(folder) + uploads.bytes_of_all() + more > limits.disk_of_all:
        raise problem("shared.disk_of_all")


def _last_change(folder: Path) -> float:
    """When anything right in a folder was changed last; 0 for none."""
    try:
        return max((entry.stat().st_mtime for entry in os.scandir(folder)), default=folder.stat().st_mtime)
    except OSError:
        return 0.0
