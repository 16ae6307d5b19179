"""Where an export is written: checked for space before, complete under its name or not there at all.

What is being written lies in a folder `<name>.<number>-<process id>.partial`; it gets its name by one rename. Its
process holds a lock beside it. One that is killed leaves the folder behind, and the next export to the same place
removes it.
"""

import contextlib
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from playground.background import Stopped
from playground.errors import naming_file, problem
from playground.replacement import replace_path

SUFFIX = ".partial"
OLD = ".old"  # ends the name of what is being replaced, inside the working folder
SLACK = 16 * 2**20  # bytes that a disk must have beyond the export itself: configs, tokenizer, events of the run
OWNER = re.compile(r"(?:[0-9a-f]{8}-)?(\d+)")  # of a working folder, in its name: its process id, last


def check_free(folder: Path, name: str, force: bool) -> None:
    """Raise PlaygroundError if something has that name already, unless it may be replaced."""
    if (folder / name).exists() and not force:
        raise problem("error.export_exists", path=str(folder / name), name=name)


def check_space(folder: Path, need: int) -> int:
    """The free bytes of a folder's disk. Raises PlaygroundError, with both numbers, if `need` bytes don't fit."""
    free = free_bytes(folder)
    if need + SLACK > free:
        raise problem("error.export_space", need_bytes=need, free_bytes=free, folder=folder.name)
    return free


def free_bytes(folder: Path) -> int:
    """The free bytes of the disk that a folder is on, or will be."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


@contextlib.contextmanager
def working_folder(folder: Path, name: str) -> Iterator[Path]:
    """A new folder in `folder`, for what leads to `name`; it is removed afterwards, of a killed process by the next."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    # Two containers on one folder may have the same process ids.
    partial = folder / f"{name}.{secrets.token_hex(4)}-{os.getpid()}{SUFFIX}"
    with _held(partial):
        partial.mkdir()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def destination(folder: Path, name: str, force: bool = False, stop: threading.Event | None = None) -> Iterator[Path]:
    """Within it, write the file or folder at the path that it gives; at its end that becomes `folder`/`name`.

    Nothing is left of it where the body raises, and what it would replace stays then. Raises PlaygroundError if the
    name is taken, Stopped if `stop` is set by the end, and OSError.
    """
    check_free(folder, name, force)
    with working_folder(folder, name) as partial:
        with naming_file(folder / name):
            yield partial / name
            _sync(partial / name)
        if stop and stop.is_set():
            raise Stopped
        check_free(folder, name, force)  # another process may have been faster
        replace_path(partial / name, folder / name, partial / f"{name}{OLD}")


def remove_leftovers(folder: Path) -> None:
    """Remove what exports into this folder left behind whose process is gone.

    What such a process was just replacing gets its name again.
    """
    for path in folder.glob(f"*{SUFFIX}"):
        name, _, owner = path.name.removesuffix(SUFFIX).rpartition(".")
        found = OWNER.fullmatch(owner)
        if found and not _is_written(path, int(found[1])):
            replaced = path / f"{name}{OLD}"
            if replaced.exists() and not (folder / name).exists():
                os.replace(replaced, folder / name)
            shutil.rmtree(path, ignore_errors=True)
            _lock_of(path).unlink(missing_ok=True)


def _lock_of(partial: Path) -> Path:
    return partial.with_name(f".{partial.name}.lock")


@contextlib.contextmanager
def _held(partial: Path) -> Iterator[None]:
    """Within it, other programs see that this one writes into a folder, whatever the clock and process ids say."""
    lock = FileLock(_lock_of(partial), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except (Timeout, NotImplementedError, OSError):  # a file system without locks: process ids have to do
        lock.release(force=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            _lock_of(partial).unlink(missing_ok=True)
        lock.release()


def _is_written(partial: Path, pid: int) -> bool:
    """Whether a process writes into a folder now: it holds the lock, or where there is none, one of its id runs."""
    path = _lock_of(partial)
    if not path.exists():
        return pid != os.getpid() and psutil.pid_exists(pid)
    try:
        with FileLock(path, timeout=0, thread_local=False):
            return False
    except Timeout:
        return True
    except (NotImplementedError, OSError):
        return psutil.pid_exists(pid)


def _sync(path: Path) -> None:
    """Have the disk write what is at a path, so that a power cut doesn't leave an empty file under its name."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
