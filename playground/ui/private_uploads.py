"""Uploads of a private page, kept where a later job still finds them: Gradio's own copy lies among temporary files.

    $PLAYGROUND_CACHE/uploads/private/<folder of the runs>/<content>/<name>

Both are digests, so the same file uploaded twice is kept once. What a run or a job of the queue names stays; so do runs
that were deleted, until they are removed for good. Of the rest, the last MOST_UNUSED files, of MOST_UNUSED_BYTES
together at most, stay.
"""

import hashlib
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

from playground import catalog
from playground.jobs import store
from playground.runs.store import TRASH

MOST_UNUSED = 20
MOST_UNUSED_BYTES = 2 * 2**30
BLOCK = 2**20  # bytes that are read at once
_tidying = threading.Lock()


def folder() -> Path:
    """Where the uploads of private pages lie."""
    return catalog.cache_folder().absolute() / "uploads" / "private"


def keep(file: Path, root: Path) -> Path:
    """Keep an uploaded file for the runs in `root`; returns where it lies, under its own name.

    A pasted text lies in the cache folder already, and stays where it is. Where there is no room, the file stays among
    the temporary ones: it can be used until these are removed.
    """
    if file.resolve().is_relative_to((catalog.cache_folder() / "pasted").resolve()):
        return file
    try:
        kept = _keep(file, _digest_of_path(root))
    except OSError:
        return file
    with _tidying, suppress(OSError):  # a run that can't be read may name any of them: then all stay
        _remove_unused(kept.parents[1], root)
    return kept


def _keep(file: Path, of_root: str) -> Path:
    """A hard link where one is possible, else a copy. Raises OSError."""
    with open(file, "rb") as opened:
        digest = hashlib.sha256()
        while block := opened.read(BLOCK):
            digest.update(block)
    kept = folder() / of_root / digest.hexdigest()[:32] / file.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not kept.is_file() or kept.stat().st_size != file.stat().st_size:
        partial = kept.with_name(f".{threading.get_ident()}.partial")
        partial.unlink(missing_ok=True)
        try:
            os.link(file, partial)
        except OSError:  # another disk, or one that has no links
            shutil.copyfile(file, partial)
        os.replace(partial, kept)
    os.utime(kept.parent)  # the last time that it was uploaded, by which it is tidied
    return kept


def _digest_of_path(root: Path) -> str:
    return hashlib.sha256(str(root.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _remove_unused(kept: Path, root: Path) -> None:
    """Remove the oldest of those that no run and no job names, beyond the limits. Raises OSError."""
    newest_first = sorted(filter(Path.is_dir, kept.iterdir()), key=lambda one: one.stat().st_mtime_ns, reverse=True)
    sizes = {one: sum(file.stat().st_size for file in one.iterdir()) for one in newest_first}
    if len(sizes) <= MOST_UNUSED and sum(sizes.values()) <= MOST_UNUSED_BYTES:
        return
    named = _named(root, [one.name for one in newest_first])
    total = 0
    for number, one in enumerate(one for one in newest_first if one.name not in named):
        total += sizes[one]
        if number >= MOST_UNUSED or (number and total > MOST_UNUSED_BYTES):
            shutil.rmtree(one, ignore_errors=True)


def _named(root: Path, digests: list[str]) -> set[str]:
    """Those of the digests that settings of a run or of a job in the queue contain. Raises OSError."""
    found: set[str] = set()
    for pattern in ("*/settings.json", f"{TRASH}/*/settings.json", f"{store.FOLDER}/*.json"):
        for path in root.glob(pattern):
            with suppress(FileNotFoundError):  # removed in this moment
                text = path.read_text(encoding="utf-8", errors="replace")
                found |= {digest for digest in digests if digest in text}
    return found
