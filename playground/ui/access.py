"""Inputs allowed on a public page: models and data sets of the catalog or a hub, and what was uploaded or pasted."""

import os
import re
import tempfile
from pathlib import Path

from playground import ASSETS, catalog, runs
from playground.data.uploads import belongs_to, is_upload
from playground.errors import PlaygroundError, Problem

PROJECT = ASSETS.parent


def forbidden_sources(model: str, source: str, visitor: str | None = None) -> list[Problem]:
    """A Problem for the model and for the data set, where it names a path of this machine, or another one's upload.

    visitor: whose uploads are allowed; None: anyone's, of a run that was started by the right one.
    """
    listed = {
        "load.model": (model, catalog.models()),
        "data.source": (source, catalog.data_sets()),
    }
    return [
        Problem("problem.not_here", {"field": field, "value": name[:120]})
        for field, (name, entries) in listed.items()
        if name not in entries and not _is_allowed(name, visitor)
    ]


def forbidden_adapter(name: str) -> list[Problem]:
    """A Problem for an adapter from elsewhere that isn't a hub id, or that a folder of this machine has the name of."""
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII) and not _is_path(name):
        return []
    return [Problem("problem.adapter_not_here", {"value": name[:120]})]


def forbidden_start(root: Path, start_from: str) -> list[Problem]:
    """A Problem where the adapter to continue isn't named by the id of a run under `root`."""
    try:
        if start_from:
            runs.find(root, start_from)
    except PlaygroundError:
        return [Problem("problem.not_here", {"field": "lora.start_from", "value": start_from[:120]})]
    return []


def _is_allowed(name: str, visitor: str | None) -> bool:
    """Whether a name is an upload of this visitor, or no path."""
    if name.startswith("upload:"):
        return is_upload(name) and (visitor is None or belongs_to(name, visitor))
    return not _is_path(name)


def _is_path(name: str) -> bool:
    """Whether a name has the form of a path, or would be taken for one because such a file or folder exists.

    A hub id may end in ":config@split", and `datasets` takes a local folder for the hub's repo of the same name.
    """
    path, repo = Path(name), Path(re.split("[:@]", name, maxsplit=1)[0])
    try:
        absolute = path.is_absolute() or name.startswith((".", "~")) or ".." in path.parts
        return absolute or any((folder / one).exists() for folder in (Path(), PROJECT) for one in (path, repo))
    except (OSError, ValueError):  # too long, or a NUL in it: nothing can open it
        return False


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
