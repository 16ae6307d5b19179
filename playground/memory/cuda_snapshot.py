"""Record what torch's CUDA allocator does, for PyTorch's memory viewer (https://docs.pytorch.org/memory_viz)."""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import torch

from playground import ASSETS, compat
from playground.errors import PlaygroundError, problem

MAX_ENTRIES = 200_000  # allocations and frees that are kept: the last ones
PACKAGES = ("site-packages", "dist-packages")


@contextmanager
def cuda_snapshot(path: Path | None, on_failure: Callable[[PlaygroundError], None] | None = None) -> Iterator[None]:
    """A context whose CUDA allocations are written to `path` at its end, also after an error; None: nothing is done.

    One may be within another, and each writes its own file. Raises PlaygroundError without CUDA, and where the file
    can't be written, unless `on_failure` takes that error.
    """
    if path is None:
        yield
        return
    if not torch.cuda.is_available():
        raise problem("error.snapshot_cpu")
    is_outermost = not compat.keeps_cuda_memory()
    if is_outermost:
        compat.record_cuda_memory(MAX_ENTRIES)
    try:
        yield
    finally:
        try:
            write_snapshot(without_paths(compat.cuda_memory_snapshot()), path)
        except PlaygroundError as error:
            if on_failure is None:
                raise
            on_failure(error)
        finally:
            if is_outermost:
                compat.forget_cuda_memory()


def write_snapshot(snapshot: dict[str, Any], path: Path) -> None:
    """Write a snapshot's file, which is whole or absent. Raises PlaygroundError where it can't be written."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        try:
            with open(partial, "wb") as file:
                pickle.dump(snapshot, file)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise problem("error.recording_file", path=path.name, detail=str(error.strerror or error)[:200]) from error


def without_paths(snapshot: dict[str, Any]) -> dict[str, Any]:
    """The snapshot with file names that say where in a library or in this program code is, but not where on the disk.

    Whoever gets the file learns no folder of this machine. The frames are changed in place, each once: many blocks
    share one.
    """
    blocks = (block for segment in snapshot["segments"] for block in segment["blocks"])
    entries = (entry for trace in snapshot["device_traces"] for entry in trace)
    seen: dict[int, dict] = {}
    for owner in (*blocks, *entries):
        for frame in owner.get("frames") or ():
            if id(frame) not in seen:
                seen[id(frame)] = frame
                frame["filename"] = short_path(frame["filename"])
    return snapshot


def short_path(path: str) -> str:
    """A source file's path from its package on: "torch/nn/modules/linear.py"; else its name alone."""
    parts = PurePath(path).parts
    for folder in PACKAGES:
        if folder in parts:
            return "/".join(parts[parts.index(folder) + 1 :])
    if path.startswith(str(ASSETS.parent)):
        return PurePath(path).relative_to(ASSETS.parent).as_posix()
    return parts[-1] if parts else path
