"""Give what was written its final name, without losing what had that name where this fails."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from playground.errors import naming_file


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Within it, write the folder at the path that it gives, of this process alone; at its end that becomes `folder`.

    Nothing is left of it where the body raises: a full disk gets its room back. Raises OSError.
    """
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with naming_file(folder):
            yield partial
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
