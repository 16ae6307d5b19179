"""Where a source is: a file or folder of this machine, a data set of the catalog, or one of the hub."""

from pathlib import Path

from playground import catalog
from playground.data.folders import is_data_folder
from playground.data.hub_sets import is_id
from playground.data.uploads import is_upload, path_of


def is_file(source: str) -> bool:
    """Whether a source names a file on this machine."""
    try:
        return path_of(source).is_file()
    except (OSError, ValueError, RuntimeError):  # a name too long, a NUL in it, no such home
        return False


def is_folder(source: str) -> bool:
    """Whether a source names a folder on this machine: by a path, or by a name under which a data set lies."""
    try:
        path = path_of(source)
        return path.is_dir() and (not is_id(source) or is_data_folder(path))
    except (OSError, ValueError, RuntimeError):
        return False


def modified(source: str) -> int:
    """When a file or folder on this machine was last changed, in nanoseconds; 0 for any other source."""
    return path_of(source).stat().st_mtime_ns if is_file(source) or is_folder(source) else 0


def is_remote(source: str) -> bool:
    """Whether reading a source needs a hub."""
    entry = catalog.data_sets().get(source)
    return (
        "hub" in entry
        if entry
        else is_id(source) and not is_upload(source) and not is_file(source) and not is_folder(source)
    )


def short_name(source: str) -> str:
    """A source's name for messages: a file without its folders."""
    is_path = "\\" in source or source.startswith(("/", ".", "~")) or is_upload(source)
    return Path(source).name if is_path else source
