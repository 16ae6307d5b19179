"""Give back the pages of weight files that a process has read through a mapping, while it still reads others.

Libraries map weight files into memory. What was read stays resident until a file is unmapped, so that a model which is
quantized as it is read needs room for its whole files too. Pages that are given back are read again where they are
touched again. Linux alone; elsewhere nothing is given back.
"""

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

LEAST = 2 * 2**20  # bytes of files that have come into memory: with fewer, looking for them isn't worth its time
LEAST_SHARE = 1000  # and of the files, where a thousandth is more: of a float32 file that is read for 4 bits, 1 %
MADV_DONTNEED = 4  # madvise(2)


def drop_count(sizes: Sequence[float]) -> int:
    """How many times `FilePages.drop` releases pages while tensors of these sizes in bytes are read, in this order."""
    least, resident, count = _least(int(sum(sizes))), 0.0, 0
    for size in sizes:
        resident += size
        if resident >= least:
            resident, count = 0.0, count + 1
    return count


def _least(size: int) -> int:
    return max(LEAST, size // LEAST_SHARE)


class FilePages:
    """Pages of a folder's weight files, of mappings that are made after this object.

    Those made before may belong to weights that were changed in place, which a file doesn't have.
    """

    def __init__(self, folder: Path):
        files = [file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin") and file.is_file()]
        self._files = {os.path.realpath(file) for file in files}
        self._least = _least(sum(file.stat().st_size for file in files))
        self._earlier = {start for start, _ in self._mappings()}
        self._resident = _resident_file_bytes()

    def drop(self, least: int | None = None) -> None:
        """Give back what is resident, if files in memory have grown by `least` bytes since the last time.

        By default that is a thousandth of the files. Nothing may have been written into these mappings.
        """
        if _resident_file_bytes() - self._resident < (self._least if least is None else least):
            return
        for start, size in self._mappings():
            if start not in self._earlier:
                ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), MADV_DONTNEED)
        self._resident = _resident_file_bytes()

    def _mappings(self) -> Iterator[tuple[int, int]]:
        """(address, bytes) of each mapping of the files."""
        if sys.platform != "linux":
            return
        for line in Path("/proc/self/maps").read_text().splitlines():
            addresses, *_, path = line.split(maxsplit=5)
            if path in self._files:
                start, end = (int(address, 16) for address in addresses.split("-"))
                yield start, end - start


def _resident_file_bytes() -> int:
    """Bytes of files that are mapped and resident (proc(5), statm)."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[2]) * mmap.PAGESIZE
