"""Uploads of a shared page under opaque names, "upload:<32 hex digits>/rows.csv": no path of the machine is shown.

    $PLAYGROUND_CACHE/uploads/<32 hex digits>/owner      whose upload it is
    $PLAYGROUND_CACHE/uploads/<32 hex digits>/file/<name>
    $PLAYGROUND_CACHE/uploads/private/                     those of private pages, by their paths

The digits are drawn at random, so that nobody guesses a name; and a page takes only a visitor's own (`belongs_to`).
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from playground import catalog

NAME = re.compile(r"upload:([0-9a-f]{32})/([^/\\\0]{1,200})")
OWNER_NAME = re.compile(r"[0-9A-Za-z_-]{1,64}")  # of a visitor: never "", a path, or "."
OWNER, FILE = "owner", "file"


def is_upload(source: str) -> bool:
    """Whether a source has the form of an upload's name."""
    return NAME.fullmatch(source) is not None


def path_of(source: str) -> Path:
    """Where a file or folder lies: an upload by its opaque name, any other by its path. Raises RuntimeError."""
    found = NAME.fullmatch(source)
    if found is None or found[2] in (".", ".."):
        return Path(source).expanduser()
    return _folder() / found[1] / FILE / found[2]


def keep(file: Path, owner: str) -> str:
    """Move an uploaded file to where only its owner's name leads; returns that name. Raises OSError."""
    token = secrets.token_hex(16)
    place = _folder() / token / FILE
    place.mkdir(parents=True)
    unfinished = place.parent / f"{OWNER}.partial"  # an owner's file that is there is whole
    unfinished.write_text(owner, encoding="utf-8")
    os.replace(unfinished, place.parent / OWNER)
    name = file.name[-120:].replace("\\", "_")
    shutil.move(file, place / name)
    return f"upload:{token}/{name}"


def belongs_to(source: str, owner: str) -> bool:
    """Whether a source is an upload of that owner that is still there."""
    found = NAME.fullmatch(source)
    return found is not None and owner != "" and _owner_of(_folder() / found[1] / OWNER) == owner


def bytes_of(owner: str) -> int:
    """The size of all uploads of an owner."""
    return _total(file for folder in folders_of(owner) for file in folder.glob(f"{FILE}/*"))


def bytes_of_all() -> int:
    """The size of everyone's uploads."""
    return _total(_folder().glob(f"*/{FILE}/*"))


def owners() -> set[str]:
    """Everyone who has an upload. A file that is torn, or that somebody wrote by hand, names nobody."""
    return {_owner_of(file) for file in _folder().glob(f"*/{OWNER}")} - {""}


def folders_of(owner: str) -> list[Path]:
    """The folders of an owner's uploads."""
    return [file.parent for file in _folder().glob(f"*/{OWNER}") if owner and _owner_of(file) == owner]


def _total(files: Iterable[Path]) -> int:
    """The size of files; of those that go meanwhile nothing."""
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.stat().st_size
    return total


def _owner_of(file: Path) -> str:
    """The name in an owner's file; "" where it can't be read, or is no name of a visitor."""
    try:
        name = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    return name if OWNER_NAME.fullmatch(name) else ""


def _folder() -> Path:
    return catalog.cache_folder() / "uploads"
