"""One writer for each run: a lock that the system holds for a process, and drops when that ends, however it ends.

    <root>/.locks/<id>.lock   locked by the program that writes to the run
    <root>/.locks/<id>.json   which one: {"pid", "host", "since"}

Beside the runs' folders, so that a run can be moved while it is locked, and a copied one isn't.
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator

from filelock import FileLock, Timeout

from playground.errors import PlaygroundError, problem
from playground.json_values import read_small_json
from playground.runs.store import Run

FOLDER = ".locks"  # under that of the runs; no id of a run begins with a dot
PROBE_SECONDS = 0.3  # that a lock is waited for: who only looks whether it is held has it for a moment
WATCHED_SECONDS = 1.0  # in which a process that works on a run writes to it


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Within it, no other program writes to the run, resumes or deletes it.

    Raises PlaygroundError where one does, with its process, machine and time. On a file system without locks, or one
    that can't be written, a run counts as held while somebody is seen writing to it.
    """
    folder = run.folder.parent / FOLDER
    lock = FileLock(folder / f"{run.id}.lock", timeout=PROBE_SECONDS, poll_interval=0.02, thread_local=False)
    try:
        folder.mkdir(exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise held_problem(run) from error
    except (NotImplementedError, OSError) as error:
        if run.has_file("events.jsonl") and is_written_to(run):
            raise held_problem(run) from error
        yield
        return
    try:
        note = folder / f"{run.id}.json"
        with contextlib.suppress(OSError):
            holder = {"pid": os.getpid(), "host": platform.node(), "since": time.time()}
            note.write_text(json.dumps(holder), encoding="utf-8")
        yield
        with contextlib.suppress(OSError):
            note.unlink()
    finally:
        lock.release()


def is_held(run: Run) -> bool:
    """Whether a program holds the run now."""
    path = run.folder.parent / FOLDER / f"{run.id}.lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0, thread_local=False):
            return False
    except Timeout:
        return True
    except (NotImplementedError, OSError):
        return False


def remove_lock(run: Run) -> None:
    """Remove the files of a deleted run's lock."""
    for suffix in ("lock", "json"):
        with contextlib.suppress(OSError):
            (run.folder.parent / FOLDER / f"{run.id}.{suffix}").unlink()


def held_problem(run: Run) -> PlaygroundError:
    """That a run is held, and by whom, as the holder wrote it down."""
    holder = {"pid": "?", "host": "?", "since": "?"}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
        values = read_small_json(run.folder.parent / FOLDER / f"{run.id}.json")
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(values["since"])))
        holder = {"pid": str(values["pid"])[:20], "host": str(values["host"])[:80], "since": since}
    return problem("error.run_held", run=run.id, pid=holder["pid"], host=holder["host"], since=holder["since"])


def is_written_to(run: Run) -> bool:
    """Whether a process is writing to a run now: memory is recorded ten times a second. Waits a second to find out."""
    events = run.folder / "events.jsonl"
    size, until = events.stat().st_size, time.monotonic() + WATCHED_SECONDS
    while time.monotonic() < until:
        time.sleep(0.05)
        if events.stat().st_size > size:
            return True
    return False
