"""Keep compiled modules where Python keeps none, so that libraries aren't compiled from their sources at each start.

Python keeps the bytecode of a module beside its source. In many images of GPU machines there is none: packages were
installed without, and PYTHONDONTWRITEBYTECODE=1 or a folder that can't be written keeps Python from adding it. Then
most of the seconds before a job begins are Python's compiler (tests/bench/README.md).
"""

import contextlib
import importlib.util
import marshal
import os
import sys
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from types import CodeType
from typing import Any

CHECKED_HASH = (3).to_bytes(4, "little")  # flags of bytecode that is of a source with this hash (PEP 552)


def keep_bytecode(folder: Path, package: str = "torch") -> bool:
    """From now on in this process, keep the bytecode of imported modules in a folder, where a package has none.

    A module that has bytecode beside its source is read from there, as ever. What is kept is of a source's content, not
    of its time: images are made in which all files have one time. Returns whether bytecode is kept: where Python
    does so itself, or a person chose a folder (PYTHONPYCACHEPREFIX), nothing changes; nor where the folder can't be
    made, or others may write into it: it holds code that will run.
    """
    if sys.pycache_prefix or not _is_uncompiled(package) or not _is_private(folder):
        return False
    loaders: list[Any] = [
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (type("KeepingLoader", (_KeepingLoader,), {"folder": folder}), SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    ]
    sys.path_hooks.insert(0, FileFinder.path_hook(*loaders))
    sys.path_importer_cache.clear()
    return True


def _is_uncompiled(package: str) -> bool:
    """Whether a package has no bytecode, and this process won't write it beside the source."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin or Path(importlib.util.cache_from_source(spec.origin)).exists():
        return False
    return sys.dont_write_bytecode or not os.access(Path(spec.origin).parent, os.W_OK)


def _is_private(folder: Path) -> bool:
    """Whether only this process's user may write into a folder, which is made where it isn't there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError:
        return False
    return os.name == "nt" or (found.st_uid == os.getuid() and not found.st_mode & 0o022)


class _KeepingLoader(SourceFileLoader):
    """Python's own loader of sources, with a second place for bytecode: `folder`, by the path of the first."""

    folder: Path

    def get_code(self, fullname: str) -> CodeType | None:
        try:
            return super().get_code(fullname)
        except (EOFError, ValueError, TypeError):  # a file in the folder is damaged
            self._kept(importlib.util.cache_from_source(self.path)).unlink(missing_ok=True)
            return super().get_code(fullname)

    def get_data(self, path: str) -> bytes:
        try:
            return super().get_data(path)
        except FileNotFoundError:
            return self._kept(path).read_bytes()

    def source_to_code(self, data: Any, path: Any, **options: Any) -> CodeType:  # type: ignore[override]
        code = super().source_to_code(data, path, **options)
        file = self._kept(importlib.util.cache_from_source(path))
        partial = file.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):  # a disk that is full or read-only: the next process compiles again
            file.parent.mkdir(parents=True, exist_ok=True)
            hash_of_source = importlib.util.source_hash(data)
            partial.write_bytes(importlib.util.MAGIC_NUMBER + CHECKED_HASH + hash_of_source + marshal.dumps(code))
            partial.replace(file)
        return code

    def _kept(self, path: str) -> Path:
        return self.folder.joinpath(*Path(path).parts[1:])
