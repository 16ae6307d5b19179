"""Which of several programs on one folder of runs works off its queue: the one that holds the owner's lock.

The system holds the lock for a process and drops it when that ends, however it ends. So a dead owner loses it in that
moment, and neither a clock that goes backwards nor a process id that is used again can give it to two programs, as a
file with a process id and a heartbeat could.
"""

import json
import os
import platform
from pathlib import Path

from filelock import FileLock, Timeout

from playground.errors import problem
from playground.jobs import store
from playground.json_values import read_small_json
from playground.runs.lock import PROBE_SECONDS


class Owner:
    """One program's hold on the queue, which threads may share."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = FileLock(root / store.FOLDER / "owner.lock", poll_interval=0.02, thread_local=False)

    @property
    def held(self) -> bool:
        """Whether this program holds the queue."""
        return self._lock.is_locked

    def take(self, seconds: float = PROBE_SECONDS) -> None:
        """Hold the queue, once it is free for at most so many seconds, and mark jobs whose program died as interrupted.

        Raises PlaygroundError where another program holds it, and OSError; it isn't held then.
        """
        (self._root / store.FOLDER).mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=seconds)
        except Timeout as error:
            by = _written(self._root)
            raise problem("error.queue_other", pid=by["pid"], host=by["host"]) from error
        except NotImplementedError as error:
            raise problem("error.queue_locked", path=str(self._root / store.FOLDER)) from error
        try:
            for job in store.listing(self._root).in_state("running"):
                store.change(self._root, job.id, state="interrupted", stop="")
            _path(self._root).write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}), encoding="utf-8")
        except BaseException:  # a full disk: another program, or a later try, may hold it then
            self._lock.release()
            raise

    def release(self) -> None:
        """Leave the queue to others."""
        self._lock.release()


def mark_interrupted(root: Path) -> None:
    """Mark the jobs as interrupted that run in no program any more; nothing where another program is at work."""
    if not store.listing(root).in_state("running"):
        return
    owner = Owner(root)
    try:
        owner.take(0)  # it only looks, often while the queue is worked off
    except Exception:  # at work, or a folder that can't be written: nothing is known to be interrupted
        return
    owner.release()


def other_program(root: Path) -> dict | None:
    """{"pid", "host"} of the program that holds the queue, as it wrote them; None if nobody does."""
    path = root / store.FOLDER / "owner.lock"
    if not path.exists():
        return None
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return _written(root)
    except (OSError, NotImplementedError):
        return None
    lock.release()
    return None


def _path(root: Path) -> Path:
    return root / store.FOLDER / "owner.txt"


def _written(root: Path) -> dict:
    """Process and machine that the owner wrote down; "?" where that can't be read."""
    try:
        values = read_small_json(_path(root))
        return {"pid": str(values["pid"])[:20], "host": str(values["host"])[:80]}
    except (OSError, ValueError, KeyError, TypeError):
        return {"pid": "?", "host": "?"}
