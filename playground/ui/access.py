"""What a public page takes from a form besides the names in data/allowed_names.py: a run to continue, an upload."""

import os
import tempfile
from pathlib import Path

from playground import catalog, runs
from playground.data.uploads import is_upload
from playground.errors import PlaygroundError, Problem


def forbidden_start(root: Path, start_from: str) -> list[Problem]:
    """A Problem where the adapter to continue isn't named by the id of a run under `root`."""
    try:
        if start_from:
            runs.find(root, start_from)
    except PlaygroundError:
        return [Problem("problem.not_here", {"field": "lora.start_from", "value": start_from[:120]})]
    return []


def was_uploaded(name: str) -> bool:
    """Whether a name is an upload's, or a path in the folder of uploads (Gradio's, as its manual documents it) or of
    pasted texts.
    """
    uploads = os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio"
    folders = (Path(uploads), catalog.cache_folder() / "pasted")
    try:
        return is_upload(name) or any(Path(name).resolve().is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, ValueError):  # too long, or a NUL in it
        return False
