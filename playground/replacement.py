"""Give what was written its final name, without losing what had that name where this fails."""

import contextlib
import glob
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from playground.errors import naming_file

ABANDONED_SECONDS = 600  # without a file written: another container's processes can't be seen


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Within it, write the folder at the path that it gives, of this process alone; at its end that becomes `folder`.

    Nothing is left of it where the body raises: a full disk gets its room back. What a process left that was killed
    goes with the next attempt. Raises OSError.
    """
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    for left in folder.parent.glob(f"{glob.escape(folder.name)}.*.partial"):
        if left == partial or _is_left_behind(left):
            shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with naming_file(folder):
            yield partial
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_left_behind(partial: Path) -> bool:
    """Whether no process of this machine writes a folder any more, nor has one of another since ABANDONED_SECONDS."""
    number = partial.suffixes[-2].removeprefix(".")
    try:
        newest = max(file.stat().st_mtime for file in (partial, *partial.iterdir()))
    except OSError:
        return False
    return number.isdecimal() and not psutil.pid_exists(int(number)) and time.time() - newest > ABANDONED_SECONDS


def replace_path(new: Path, final: Path, aside: Path) -> None:
    """Rename a file or folder to `final`; what has that name is moved to `aside`, and back where the renaming fails.

    The caller removes `aside`. Raises OSError.
    """
    if not final.exists():
        os.replace(new, final)
        return
    os.replace(final, aside)
    try:
        os.replace(new, final)
    except BaseException:
        with contextlib.suppress(OSError):
            os.replace(aside, final)
        raise
