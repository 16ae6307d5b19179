"""Unpack a compressed file (gzip, bzip2, zstd) into a temporary one, with a bound on what it unpacks to."""

import bz2
import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from zlib import error as ZlibError

from playground.errors import problem

SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".zst": "zstd"}
SIGNATURES = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"(\xb5/\xfd": "zstd"}
CHUNK = 2**20  # bytes


def unpack(
    path: Path, packing: str, most_bytes: int, on_progress: Callable
) -> tuple[Path, tempfile.TemporaryDirectory]:
    """Unpack a file. Returns the unpacked file and its folder, which the caller removes.

    The file keeps its name without the suffix of the packing; without another suffix, its content tells its kind.
    Raises PlaygroundError: more than `most_bytes`, damaged.
    """
    folder = tempfile.TemporaryDirectory(prefix="playground-")
    name = path.stem if path.suffix.lower() in SUFFIXES else path.name
    target = Path(folder.name) / (name if Path(name).suffix else f"{name}.txt")
    try:
        with _open_packed(path, packing) as packed, open(target, "wb") as out:
            while chunk := packed.read(CHUNK):
                if out.tell() + len(chunk) > most_bytes:
                    raise problem("error.unpacked_over", file=path.name, most_bytes=most_bytes)
                out.write(chunk)
                on_progress(0, path.stat().st_size, "bytes")
    except (OSError, EOFError, ValueError, ZlibError) as error:
        folder.cleanup()
        raise problem("error.packed_damaged", file=path.name, kind=packing, detail=str(error)[:160]) from error
    except BaseException:
        folder.cleanup()
        raise
    return target, folder


def _open_packed(path: Path, packing: str) -> IO[bytes] | Any:
    if packing == "gzip":
        return gzip.open(path, "rb")
    if packing == "bzip2":
        return bz2.open(path, "rb")
    import pyarrow  # its errors are OSError and ValueError

    return pyarrow.input_stream(str(path), compression="zstd")
