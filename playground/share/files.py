"""Write a text file so that an interrupted or failed write leaves nothing under its name."""

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from playground.errors import is_disk_full, problem
from playground.json_values import valid_text

_numbers = itertools.count()


def write_whole(path: Path, text: str) -> str:
    """Write a file that is either whole or absent; returns its path. Raises PlaygroundError where it can't be."""
    return write_together({path: text})[0]


def write_together(texts: Mapping[Path, str]) -> list[str]:
    """Write files that belong together: none gets its name before all of them are written. Returns their paths.

    Raises PlaygroundError where one can't be.
    """
    with contextlib.ExitStack() as written:
        for path, text in texts.items():
            with named_failure(path):
                if path.is_dir():  # else found after others have their names
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                written.enter_context(partial_of(path)).write_text(valid_text(text), encoding="utf-8")
    return [str(path) for path in texts]


@contextlib.contextmanager
def partial_of(path: Path) -> Iterator[Path]:
    """Within it, write the file at the path that it gives, of this call alone; at its end that becomes `path`.

    Raises PlaygroundError where it can't.
    """
    number = f"{os.getpid()}-{next(_numbers)}"
    partial = path.with_name(f"{path.name[:40]}.{number}.partial")  # 40 characters are 160 bytes, of 255
    try:
        yield partial
        with named_failure(path):
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
        if is_disk_full(error):
            error.filename = str(path)
            raise
        detail = error.strerror or str(error)
        raise problem("error.write_file", path=path.name[:80], detail=detail[:200]) from error
