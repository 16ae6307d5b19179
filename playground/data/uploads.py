"""Uploads of a shared page under opaque names, "upload:<32 hex digits>/rows.csv": no path of the machine is shown.

    $PLAYGROUND_CACHE/uploads/<32 hex digits>/owner      whose upload it is
    $PLAYGROUND_CACHE/uploads/<32 hex digits>/file/<name>

The digits are drawn at random, so that nobody guesses a name; and a page takes only a visitor's own (`belongs_to`).
"""

import re
import secrets
import shutil
from pathlib import Path

from playground import catalog

NAME = re.compile(r"upload:([0-9a-f]{32})/([^/\\\0]{1,200})")
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
    (place.parent / OWNER).write_text(owner, encoding="utf-8")
    name = file.name[-120:].replace("\\", "_")
    shutil.move(file, place / name)
    return f"upload:{token}/{name}"


def belongs_to(source: str, owner: str) -> bool:
    """Whether a source is an upload of that owner that is still there."""
    found = NAME.fullmatch(source)
    try:
        return found is not None and (_folder() / found[1] / OWNER).read_text(encoding="utf-8") == owner
    except OSError:
        return False


def bytes_of(owner: str) -> int:
    """The size of all uploads of an owner."""
    return sum(file.stat().st_size for folder in _folders_of(owner) for file in (folder / FILE).iterdir())


def remove(owner: str) -> None:
    """Remove all uploads of an owner."""
    for folder in _folders_of(owner):
        shutil.rmtree(folder, ignore_errors=True)


def owners() -> set[str]:
    """Everyone who has an upload."""
    return {file.read_text(encoding="utf-8") for file in _folder().glob(f"*/{OWNER}")}


def _folders_of(owner: str) -> list[Path]:
    return [file.parent for file in _folder().glob(f"*/{OWNER}") if file.read_text(encoding="utf-8") == owner]


def _folder() -> Path:
    return catalog.cache_folder() / "uploads"
