"""Where an export is written: checked for space before, complete under its name or not there at all.

What is being written lies in a folder `<name>.<process id>.partial`; it gets its name by one rename. A process that is
killed leaves such a folder behind, and the next export into the same place removes it.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from playground.errors import problem

SUFFIX = ".partial"
SLACK = 16 * 2**20  # bytes that a disk must have beyond the export itself: configs, tokenizer, events of the run
CLOCK_SLACK = 2.0  # seconds by which two clocks of one machine may differ


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
def destination(folder: Path, name: str, force: bool = False) -> Iterator[Path]:
    """Within it, write the file or folder at the path that it gives; at its end that becomes `folder`/`name`.

    Nothing is left of it where the body raises. Raises PlaygroundError if the name is taken, and OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    check_free(folder, name, force)
    partial = folder / f"{name}.{os.getpid()}{SUFFIX}"
    partial.mkdir()
    try:
        yield partial / name
        _sync(partial / name)
        check_free(folder, name, force)  # another process may have been faster
        if force and (folder / name).exists():
            os.replace(folder / name, partial / f"{name}.old")
        os.replace(partial / name, folder / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what exports into this folder left behind whose process is gone, or is this one."""
    for path in folder.glob(f"*{SUFFIX}"):
        owner = path.name.removesuffix(SUFFIX).rpartition(".")[2]
        if owner.isdecimal() and not _is_running(int(owner), path):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int, path: Path) -> bool:
    """Whether another process of this id runs that began before the path was made."""
    try:
        began = psutil.Process(pid).create_time()
        return pid != os.getpid() and began <= path.stat().st_mtime + CLOCK_SLACK
    except (psutil.Error, OSError):
        return False


def _sync(path: Path) -> None:
    """Have the disk write what is at a path, so that a power cut doesn't leave an empty file under its name."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
