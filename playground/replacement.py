"""Give what was written its final name, without losing what had that name where this fails."""

import contextlib
import os
from pathlib import Path


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
