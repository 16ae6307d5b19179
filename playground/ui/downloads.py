"""The folder of files that the page offers for download: Gradio serves files of the temporary folder alone."""

import os
import tempfile
from functools import cache
from pathlib import Path

MAX_DOWNLOAD_BYTES = 2 * 2**30  # Gradio copies a file before it serves it


@cache
def folder() -> Path:
    """This process's folder of downloads."""
    return Path(tempfile.mkdtemp(prefix="playground-downloads-"))


def link(path: Path, run_id: str) -> Path:
    """A link in the folder of downloads to a file of a run."""
    place = folder() / run_id
    place.mkdir(exist_ok=True)
    made = place / path.name
    made.unlink(missing_ok=True)
    os.symlink(path.resolve(), made)
    return made
