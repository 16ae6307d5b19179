"""The folder of files that the page offers for download: Gradio serves files of the temporary folder alone.

Each visitor's lie in a folder of their own, which goes with their runs; all of them go with this program.
"""

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

MAX_DOWNLOAD_BYTES = 2 * 2**30  # Gradio copies a file before it serves it
OWNER = "owner"  # the folder of a private page's files, where nobody is a visitor


@cache
def folder() -> Path:
    """This process's folder of downloads, removed when it ends."""
    made = Path(tempfile.mkdtemp(prefix="playground-downloads-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def place(visitor: str, *parts: str) -> Path:
    """A folder for a visitor's files, made where it lacks. parts: the names of folders within their own."""
    made = folder().joinpath(visitor or OWNER, *parts)
    made.mkdir(parents=True, exist_ok=True)
    return made


def remove(visitor: str) -> None:
    """Remove a visitor's files."""
    shutil.rmtree(folder() / (visitor or OWNER), ignore_errors=True)


def link(path: Path, visitor: str, run_id: str) -> Path:
    """A link in a visitor's folder to a file of a run."""
    made = place(visitor, "files", run_id) / path.name
    made.unlink(missing_ok=True)
    os.symlink(path.resolve(), made)
    return made
