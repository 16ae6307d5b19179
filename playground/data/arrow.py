"""Read Arrow files (IPC files and streams, also Feather's) record by record, with bounds on what they unpack to."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playground.data.parquet import MAX_BATCH_BYTES, MAX_UNPACKED_BYTES, with_limit
from playground.errors import PlaygroundError, problem

FILE_SIGNATURE = b"ARROW1\0\0"  # of an IPC file; the messages of a stream follow it
DICTIONARY, BATCH = 2, 3  # types of a message, in Arrow's Message.fbs


def open_arrow(path: Path, batch_rows: int) -> Iterator[dict]:
    """Open an Arrow file and iterate over its records, converting up to `batch_rows` at once.

    Raises PlaygroundError, at once or while records are read: not Arrow, too large once unpacked.
    """
    import pyarrow

    try:
        size = _unpacked_bytes(path)
    except (pyarrow.ArrowException, OSError, ValueError, struct.error, IndexError) as error:
        raise _read_error(path, error) from error
    if size > MAX_UNPACKED_BYTES:
        raise problem("error.unpacked", file=path.name, size_bytes=size, most_bytes=MAX_UNPACKED_BYTES)
    return with_limit(_records(path, batch_rows), path)


def _records(path: Path, batch_rows: int) -> Iterator[dict]:
    import pyarrow

    try:
        with pyarrow.OSFile(str(path)) as file:
            is_file = file.read(len(FILE_SIGNATURE)) == FILE_SIGNATURE
            file.seek(0)
            opened = pyarrow.ipc.open_file(file) if is_file else pyarrow.ipc.open_stream(file)
            batches = map(opened.get_batch, range(opened.num_record_batches)) if is_file else opened
            for batch in batches:
                batch.validate(full=True)  # offsets beyond the data would end the process, not raise an error
                rows = min(batch_rows, max(1, MAX_BATCH_BYTES // max(1, batch.nbytes)))
                for start in range(0, batch.num_rows, rows):
                    yield from batch.slice(start, rows).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _read_error(path, error) from error


def _unpacked_bytes(path: Path) -> int:
    """Bytes of all batches once unpacked: a compressed buffer begins with its size."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        if file.read(len(FILE_SIGNATURE)) != FILE_SIGNATURE:
            file.seek(0)
        return sum(_message_bytes(message) for message in pyarrow.ipc.MessageReader.open_stream(file))


def _message_bytes(message: Any) -> int:
    """Bytes that a message's buffers unpack to, from its metadata (a FlatBuffers table, Arrow's Message.fbs)."""
    data, body = memoryview(message.metadata), memoryview(message.body or b"")

    def field(table: int, number: int) -> int:
        vtable = table - struct.unpack_from("<i", data, table)[0]
        place, size = 4 + 2 * number, struct.unpack_from("<H", data, vtable)[0]
        offset = struct.unpack_from("<H", data, vtable + place)[0] if place < size else 0
        return table + offset if offset else 0

    def follow(place: int) -> int:
        return place + struct.unpack_from("<I", data, place)[0]

    root = follow(0)
    kind = data[field(root, 1)] if field(root, 1) else 0
    if kind not in (DICTIONARY, BATCH):
        return 0
    batch = follow(field(root, 2))
    batch = follow(field(batch, 1)) if kind == DICTIONARY else batch
    if not field(batch, 3) or not field(batch, 2):  # not compressed, or no buffers
        return len(body)
    vector, total = follow(field(batch, 2)), 0
    for number in range(struct.unpack_from("<I", data, vector)[0]):
        offset, length = struct.unpack_from("<qq", data, vector + 4 + 16 * number)
        size = struct.unpack_from("<q", body, offset)[0] if length >= 8 else 0
        total += size if size > 0 else length  # -1: this buffer isn't compressed
    return total


def _read_error(path: Path, error: Exception) -> PlaygroundError:
    return problem("error.arrow", file=path.name, detail=str(error).split("\n")[0][:160])
