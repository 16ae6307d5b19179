"""What a page that strangers open lets them name: models and data sets of the list and the hub, and what was uploaded or pasted there."""

import os
import tempfile
from pathlib import Path

from playground import catalog
from playground.errors import Problem
from playground.settings import Settings


def forbidden_sources(settings: Settings) -> list[Problem]:
    """The settings that name a file or folder of this machine which no page has brought here."""
    known = {
        "load.model": (settings.load.model, catalog.models()),
        "data.source": (settings.data.source, catalog.data_sets()),
    }
    return [
        Problem("problem.not_here", {"field": field, "value": name[:120]})
        for field, (name, listed) in known.items()
        if name not in listed and _is_path(name) and not _brought(name)
    ]


def _is_path(name: str) -> bool:
    """Whether it can't be anything of a hub, or would be taken for a path because there is one."""
    path = Path(name)
    try:
        return path.is_absolute() or name.startswith((".", "~")) or ".." in path.parts or path.exists()
    except (OSError, ValueError):  # too long, a NUL in it: nothing will open it
        return False


def _brought(name: str) -> bool:
    """Whether it lies where uploads (Gradio's folder, as its manual has it) and pasted texts are kept."""
    uploads = os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio"
    return any(
        Path(name).resolve().is_relative_to(Path(folder).resolve())
        for folder in (uploads, catalog.cache_folder() / "pasted")
    )
