"""How much of a file is in the page cache, and how fast the rest is read. Linux; elsewhere all counts as cached."""

import ctypes
import mmap
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

BLOCK, MOST_BYTES = 4 * 2**20, 128 * 2**20  # of a probe: read at once, and in all
LEAST_BLOCKS = 4  # of a probe: where fewer in a row are missing, it would time a seek, or pages that are in the cache
MOST_SECONDS = 0.1  # after which a probe reads no further block
ASSUMED_RATE = 5e8  # bytes a second where none can be measured: of an SSD on SATA

_rates: dict[tuple[int, int], float] = {}  # bytes a second, by file system and threads


@dataclass(frozen=True)
class CachedShare:
    """Bytes of a file, how many of them are in the page cache, and of a long piece that isn't: its offset and bytes."""

    size: int
    cached: int
    missing_at: int = 0
    missing_piece: int = 0


def cached_share(file: Path) -> CachedShare:
    """What of a file is in the page cache (mincore(2)); all of it where the system doesn't say. Raises OSError."""
    size = file.stat().st_size
    pages = _resident_pages(file, size) if size and sys.platform == "linux" else None
    if pages is None:
        return CachedShare(size, size)
    missing_at, piece = -1, MOST_BYTES
    while missing_at < 0 and piece >= mmap.PAGESIZE:
        missing_at, piece = pages.find(bytes(piece // mmap.PAGESIZE)), piece // 2
    cached = min(size, pages.count(1) * mmap.PAGESIZE)
    if missing_at < 0:
        return CachedShare(size, cached)
    next_cached = pages.find(1, missing_at)
    end = size if next_cached < 0 else next_cached * mmap.PAGESIZE
    return CachedShare(size, cached, missing_at * mmap.PAGESIZE, end - missing_at * mmap.PAGESIZE)


def _resident_pages(file: Path, size: int) -> bytes | None:
    """A byte for each page, 1 where it is in the page cache; None where that can't be found out."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    with open(file, "rb") as stream:
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, stream.fileno(), 0)
    if address in (None, ctypes.c_void_p(-1).value):
        return None
    resident = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    try:
        return bytes(resident) if libc.mincore(address, size, resident) == 0 else None
    finally:
        libc.munmap(address, size)


def reading_rate(file: Path, offset: int, size: int, threads: int = 1) -> float:
    """Bytes a second at which pages are read that aren't in the page cache, by reading some of a file's piece.

    offset, size: of a piece that isn't in the page cache. threads: how many read at the same time, each other blocks.
    Measured once for each file system and number of threads, in a piece of LEAST_BLOCKS and a block for each thread;
    assumed while there was none. Raises OSError.
    """
    key, least = (file.stat().st_dev, threads), max(LEAST_BLOCKS, threads) * BLOCK
    if key not in _rates and size >= least:
        done, seconds = _read_some(file, offset, min(size, MOST_BYTES), threads)
        if done >= BLOCK:  # else the file was cut meanwhile
            _rates[key] = done / max(1e-9, seconds)
    return _rates.get(key, ASSUMED_RATE)


def _read_some(file: Path, offset: int, size: int, threads: int) -> tuple[int, float]:
    """Read blocks of a piece for MOST_SECONDS; return the bytes read and the seconds taken."""
    began = time.perf_counter()

    def read(first: int) -> int:
        done, block = 0, memoryview(bytearray(BLOCK))
        with open(file, "rb", buffering=0) as stream:
            for start in range(first, size, threads * BLOCK):
                if time.perf_counter() - began >= MOST_SECONDS:
                    break
                stream.seek(offset + start)
                done += stream.readinto(block[: size - start]) or 0
        return done

    with ThreadPoolExecutor(threads) as readers:
        done = sum(readers.map(read, range(0, threads * BLOCK, BLOCK)))
    return done, time.perf_counter() - began
