"""What a public page takes from a form besides the names in data/allowed_names.py: a run to continue, an upload."""

import os
import tempfile
from pathlib import Path

from playground import catalog, runs
from playground.data.uploads import is_upload
from playground.errors import PlaygroundError, Problem
from playground.ui import private_uploads


def forbidden_start(root: Path, start_from: str) -> list[Problem]:
    """A Problem where the adapter to continue isn't named by the id of a run under `root`."""
    try:
        if start_from:
            runs.find(root, start_from)
    except PlaygroundError:
        return [_not_here(start_from)]
    return []


def forbidden_start_name(start_from: str) -> list[Problem]:
    """A Problem where the adapter that was continued isn't named by a run's id; that run may be gone by now."""
    return [] if not start_from or runs.RUN_ID.fullmatch(start_from) else [_not_here(start_from)]


def _not_here(start_from: str) -> Problem:
    return Problem("problem.not_here", {"field": "lora.start_from", "value": start_from[:120]})


def was_uploaded(name: str) -> bool:
    """Whether a name is an upload's, or a path in the folder of uploads (Gradio's, as its manual documents it, and
    that of a private page) or of pasted texts.
    """
    uploads = os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio"
    folders = (Path(uploads), private_uploads.folder(), catalog.cache_folder() / "pasted")
    try:
        return is_upload(name) or any(Path(name).resolve().is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, ValueError):  # too long, or a NUL in it
        return False
