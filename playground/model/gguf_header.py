"""Read the header of a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): counts and metadata.

Libraries believe the counts that a file claims. Here every count is checked against the bytes that the file has.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # struct's letter of each type of value  # fmt: skip
TEXT, ARRAY = 8, 9
MIN_ENTRY_BYTES, MIN_TENSOR_BYTES = 13, 32  # of a key with its value, and of a tensor's description
MAX_TEXT = 1_000  # characters of a value that is kept
MAX_LEVELS = 4  # of arrays in each other
MAX_TEXTS = 2**21  # of one array: of tokens, or of merges; the largest vocabularies have 300,000
MAX_DIMENSIONS = 4  # of a tensor, as ggml has them


class DamagedHeader(ValueError):
    """A header that claims more than the file holds, or that isn't one."""


def read_metadata(file: Path) -> dict[str, Any]:
    """The metadata of a GGUF file: numbers and short texts; of arrays and long texts, nothing.

    Raises DamagedHeader, OSError.
    """
    with open(file, "rb") as stream:
        reader = _Reader(stream, file.stat().st_size)
        magic, version, tensors, entries = struct.unpack("<4sIQQ", reader.take(24))
        if magic != MAGIC or version not in VERSIONS:
            raise DamagedHeader(f"version {version}")
        if entries * MIN_ENTRY_BYTES + tensors * MIN_TENSOR_BYTES > reader.left:
            raise DamagedHeader(f"{tensors:,} tensors and {entries:,} values do not fit into it")
        found = {}
        for _ in range(entries):
            name = reader.text()
            value = reader.value(reader.number("I"))
            if value is not None:
                found[name] = value
        if tensors * MIN_TENSOR_BYTES > reader.left:
            raise DamagedHeader(f"{tensors:,} tensors do not fit into it")
        for _ in range(tensors):
            reader.tensor(file.stat().st_size)
        return found


class _Reader:
    """Takes values from a file, never beyond its end."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self.left = stream, size

    def take(self, count: int) -> bytes:
        """The next bytes."""
        self._claim(count)
        return self._stream.read(count)

    def skip(self, count: int) -> None:
        """Pass over bytes."""
        self._claim(count)
        self._stream.seek(count, 1)

    def number(self, letter: str) -> Any:
        """The next number, of one of struct's types."""
        return struct.unpack(f"<{letter}", self.take(struct.calcsize(f"<{letter}")))[0]

    def text(self) -> str:
        """The next text; of a long one, that it is there."""
        length = self.number("Q")
        if length > MAX_TEXT:
            self.skip(length)
            return ""
        return self.take(length).decode("utf-8", "replace")

    def value(self, kind: int, level: int = 0) -> Any:
        """The next value; None for an array."""
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == TEXT:
            return self.text()
        if kind != ARRAY or level > MAX_LEVELS:
            raise DamagedHeader(f"a value of type {kind}")
        item, count = self.number("I"), self.number("Q")
        if item in SCALARS:
            self.skip(count * struct.calcsize(f"<{SCALARS[item]}"))
            return None
        if count > MAX_TEXTS:
            raise DamagedHeader(f"an array of {count:,} texts")
        if count * 8 > self.left:  # each has its length at least
            raise DamagedHeader(f"an array of {count:,} values does not fit into it")
        for _ in range(count):
            self.value(item, level + 1)
        return None

    def tensor(self, size: int) -> None:
        """Pass over a tensor's description: its name, dimensions, type, and where in a file of `size` bytes it lies."""
        name, dimensions = self.text(), self.number("I")
        if dimensions > MAX_DIMENSIONS:
            raise DamagedHeader(f"a tensor of {dimensions:,} dimensions")
        self.skip(8 * dimensions + 4)
        if (offset := self.number("Q")) > size:
            raise DamagedHeader(f"{name[:60]} begins at byte {offset:,} of {size:,}")

    def _claim(self, count: int) -> None:
        if count > self.left:
            raise DamagedHeader(f"{count:,} bytes are claimed, {self.left:,} are left")
        self.left -= count
