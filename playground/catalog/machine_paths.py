"""Whether a name of a model, data set or adapter leads to a file of this machine instead of a hub."""

import re
from pathlib import Path

from playground import ASSETS

PROJECT = ASSETS.parent


def is_machine_path(name: str) -> bool:
    """Whether a name has the form of a path, or would be taken for one because such a file or folder exists.

    A hub id may end in ":config@split", and `datasets` takes a local folder for the hub's repo of the same name.
    """
    path, repo = Path(name), Path(re.split("[:@]", name, maxsplit=1)[0])
    try:
        absolute = path.is_absolute() or name.startswith((".", "~")) or ".." in path.parts
        return absolute or any((folder / one).exists() for folder in (Path(), PROJECT) for one in (path, repo))
    except (OSError, ValueError):  # too long, or a NUL in it: nothing can open it
        return False
