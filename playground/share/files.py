"""Write a text file so that an interrupted or failed write leaves nothing under its name."""

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from playground.errors import problem

_numbers = itertools.count()


def write_whole(path: Path, text: str) -> str:
    """Write a file that is either whole or absent; returns its path. Raises PlaygroundError where it can't be."""
    with named_failure(path):
        with partial_of(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return str(path)


@contextlib.contextmanager
def partial_of(path: Path) -> Iterator[Path]:
    """Within it, write the file at the path that it gives, of this call alone; at its end that becomes `path`."""
    number = f"{os.getpid()}-{next(_numbers)}"
    partial = path.with_name(f"{path.name[:40]}.{number}.partial")  # 40 characters are 160 bytes, of 255
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def named_failure(path: Path) -> Iterator[None]:
    """Turn what the system says of a file or folder that can't be written into a PlaygroundError.

    A full disk has a sentence of its own (errors.as_playground_error).
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        detail = error.strerror or str(error)
        raise problem("error.write_file", path=path.name[:80], detail=detail[:200]) from error
