"""Check the files of a model against the checksums that a hub published them with.

In the hub's cache, a file of a snapshot is a link to a blob, whose name is its checksum: SHA-256 for large files, git's
SHA-1 for small ones. Beside what `hf download --local-dir` wrote, the checksum stands in a separate file. A file that
was found whole isn't read again until its size or time of change differs, nor is a changed one of such a folder.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from playground import catalog
from playground.json_values import read_small_json

# {path: [size, time of change in ns]} of the cache's files that were found whole; of those of folders also the digest
MEMORY = "checked.json"
BLOCK = 2**22  # bytes that are read at once
SHA256, GIT_SHA1 = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{40}")


def damaged_files(folder: Path, on_progress: Callable[..., None] = lambda done, total: None) -> list[Path]:
    """The files of a snapshot in the hub's cache that aren't what was published. on_progress: (done, total) bytes."""
    checked = _read_memory()
    named = [(file, file.resolve()) for file in sorted(folder.rglob("*")) if file.is_symlink() and file.is_file()]
    unchecked = [(file, blob) for file, blob in named if checked.get(str(blob)) != _state(blob)]
    total, done = sum(blob.stat().st_size for _, blob in unchecked), 0
    damaged = []
    for file, blob in unchecked:
        digest = _digest(blob, blob.name, partial(_progress_from, on_progress, done, total))
        damaged += [file] if digest and digest != blob.name else []
        if digest == blob.name:
            checked[str(blob)] = _state(blob)
        done += blob.stat().st_size
    if len(damaged) < len(unchecked):
        _write_memory(checked)
    return damaged


def _progress_from(on_progress: Callable[..., None], before: int, total: int, size: int) -> None:
    on_progress(before + size, total)


def changed_files(folder: Path, on_progress: Callable[..., None] = lambda done, total: None) -> list[Path]:
    """The weight files of a downloaded folder that have been changed since: by damage, or on purpose.

    on_progress: as of damaged_files.
    """
    checked = _read_memory()
    files = [file for file in sorted(folder.glob("*.safetensors")) if file.is_file()]
    published = {file: name for file in files if (name := _published(file))}
    digests = {file: _known_digest(checked, file, name) for file, name in published.items()}
    unread = [file for file, digest in digests.items() if not digest]
    total, done = sum(file.stat().st_size for file in unread), 0
    for file in unread:
        with contextlib.suppress(OSError):  # loading it says so
            state = _state(file)
            digests[file] = _digest(file, published[file], partial(_progress_from, on_progress, done, total))
            checked[str(file)] = [*state, digests[file]]
            _write_memory(checked)  # at once: a Stop shall not have this file read again
            done += state[0]
    return [file for file, digest in digests.items() if digest not in ("", published[file])]


def _published(file: Path) -> str:
    """The checksum that `hf download --local-dir` noted of a file; "" where there is none."""
    note = file.parent / ".cache" / "huggingface" / "download" / f"{file.name}.metadata"
    with contextlib.suppress(OSError, ValueError, IndexError):
        name = note.read_text(encoding="utf-8").splitlines()[1].strip('" ')
        return name if SHA256.fullmatch(name) or GIT_SHA1.fullmatch(name) else ""
    return ""


def _known_digest(checked: dict[str, Any], file: Path, published: str) -> str:
    """The digest that a file had when it was read last, if it is the same file since; else ""."""
    known = checked.get(str(file))
    if not isinstance(known, list) or known[:-1] != _state(file):
        return ""
    digest = known[-1]
    return digest if isinstance(digest, str) and len(digest) == len(published) else ""


def remove_cached(file: Path) -> None:
    """Remove a file of the hub's cache, so that the next download fetches it again."""
    blob = file.resolve()
    file.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


def _digest(file: Path, published: str, on_size: Callable[[int], None]) -> str:
    """The file's digest, of the kind of the published one; "" for a name that is none."""
    size = file.stat().st_size
    if SHA256.fullmatch(published):
        digest = hashlib.sha256()
    elif GIT_SHA1.fullmatch(published):
        digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    else:
        return ""
    done = 0
    with open(file, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            done += len(block)
            on_size(done)
    return digest.hexdigest()


def _state(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


def _read_memory() -> dict[str, Any]:
    try:
        values = read_small_json(catalog.cache_folder() / MEMORY)
        return values if isinstance(values, dict) else {}
    except (OSError, ValueError):
        return {}


def _write_memory(checked: dict[str, Any]) -> None:
    path = catalog.cache_folder() / MEMORY
    unfinished = path.with_suffix(f".{os.getpid()}.partial")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(checked), encoding="utf-8")
        os.replace(unfinished, path)
