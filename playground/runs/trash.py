"""The trash of the runs: `<root>/.deleted/<id>` holds deleted runs, so that a deletion can be undone.

A deleted run keeps its files, and takes disk space, until the app starts again, someone empties the trash, or another
run is deleted more than a day later. No id of a run begins with a dot, so nothing that lists runs sees the trash.
One lock serves the pages of a process, and every move is one rename: of two that race, one moves the whole folder and
the other finds none.
"""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from playground.errors import problem
from playground.runs.listing import history
from playground.runs.lock import locked, remove_lock
from playground.runs.store import TRASH, Run, find_folder
from playground.runs.summary import RunSummary

KEPT_SECONDS = 24 * 3600  # that a deleted run is kept while the app goes on
REMOVING = ".removing-"  # begins the name of a folder while it is removed: no id begins with a dot
_LOCK = threading.Lock()
Found = TypeVar("Found")


def delete(root: Path, run_id: str | None) -> None:
    """Move a run's folder to the trash; runs deleted over KEPT_SECONDS ago are removed for good.

    Raises PlaygroundError for an unknown run, or one that a program is writing to, OSError where the folder of the runs
    can't be written.
    """
    with _LOCK:
        folder = find_folder(root, run_id)
        run = Run(folder)
        (root / TRASH).mkdir(exist_ok=True)
        _empty(root, KEPT_SECONDS)
        with locked(run):
            try:
                # When it was deleted; before the move, so that it never looks like one deleted long ago.
                os.utime(folder)
            except FileNotFoundError as error:  # another program was faster
                raise problem("error.no_run", run=folder.name) from error
            try:
                _move(folder, root / TRASH)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                _remove(root / TRASH / folder.name)  # an earlier copy of this run, which came back by hand
                _move(folder, root / TRASH)
        remove_lock(run)


def restore(root: Path, run_id: str | None) -> None:
    """Move a deleted run back.

    Raises PlaygroundError if it isn't in the trash (any more), or if a run of its id exists.
    """
    with _LOCK:
        folder = find_folder(root / TRASH, run_id)
        if (root / folder.name).exists():  # a rename would replace an empty folder
            raise problem("error.run_exists", run=folder.name)
        _move(folder, root)


def deleted(root: Path) -> list[RunSummary]:
    """The runs in the trash, newest run first."""
    return history(root / TRASH)


def with_deleted(root: Path, read: Callable[[Path], Found]) -> tuple[Found, list[RunSummary]]:
    """What `read` finds in a folder of runs, and the deleted runs, newest first.

    The trash is read before it and after it, so that a run which is deleted or restored meanwhile is in one of both.
    """
    before = deleted(root)
    found = read(root)
    gone = {run.id: run for run in (*before, *deleted(root))}
    return found, sorted(gone.values(), key=lambda run: run.id, reverse=True)


def empty_trash(root: Path, older_than: float = 0) -> None:
    """Remove for good what was deleted over `older_than` seconds ago. What can't be removed stays, without an error."""
    with _LOCK:
        _empty(root, older_than)


def _empty(root: Path, older_than: float) -> None:
    trash = root / TRASH
    for folder in trash.iterdir() if trash.is_dir() else ():
        try:
            # An age below zero: the clock was set back since.
            is_old = older_than <= 0 or time.time() - folder.stat().st_mtime >= older_than
            if is_old or folder.name.startswith(REMOVING):
                _remove(folder)
        except OSError:  # gone in this moment, or not ours to remove
            continue


def _move(folder: Path, to: Path) -> None:
    """Move a run's folder into another one. Raises PlaygroundError if another process moved it first."""
    try:
        folder.rename(to / folder.name)
    except FileNotFoundError as error:
        raise problem("error.no_run", run=folder.name) from error


def _remove(folder: Path) -> None:
    """Remove a folder of the trash; first under another name, so that `restore` finds a whole run or none."""
    if not folder.name.startswith(REMOVING):
        folder = folder.rename(folder.with_name(f"{REMOVING}{folder.name}-{time.time_ns()}"))
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
    else:  # `rmtree` would wait for a pipe
        folder.unlink(missing_ok=True)
