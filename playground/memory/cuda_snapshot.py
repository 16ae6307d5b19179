"""Record what torch's CUDA allocator does, for PyTorch's memory viewer (https://docs.pytorch.org/memory_viz)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from playground import compat
from playground.errors import problem

MAX_ENTRIES = 200_000  # allocations and frees that are kept: the last ones


@contextmanager
def cuda_snapshot(path: Path | None) -> Iterator[None]:
    """A context whose CUDA allocations are written to `path` at its end, also after an error; None: nothing is done.

    Raises PlaygroundError without CUDA, and where the file can't be written.
    """
    if path is None:
        yield
        return
    if not torch.cuda.is_available():
        raise problem("error.snapshot_cpu")
    compat.record_cuda_memory(MAX_ENTRIES)
    try:
        yield
    finally:
        try:
            compat.dump_cuda_memory(path)
        except OSError as error:
            raise problem("error.recording_file", path=path.name, detail=str(error)[:200]) from error
