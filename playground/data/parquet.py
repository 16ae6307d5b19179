"""Read Parquet files record by record, with bounds on what they unpack to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playground.errors import PlaygroundError, problem

MAX_UNPACKED_BYTES = 400 * 2**20  # of all columns together, as the file's metadata states them
MAX_BATCH_BYTES = 2**29  # unpacked at once
MAX_CHARACTERS = 2**31  # of all texts as they are read: one that is stored once may stand in each of a million rows


def open_parquet(path: Path, batch_rows: int) -> tuple[int, Iterator[dict]]:
    """Open a Parquet file. Returns its number of records and an iterator over them, reading up to `batch_rows` at once.

    Batches are smaller where one value may be large: with a dictionary one stored value may stand for many rows, so
    that a small file unpacks to a huge table, but no value is larger than its row group. Raises PlaygroundError, at
    once or while records are read: not Parquet, too large once unpacked.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        group_bytes = [file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups)]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _read_error(path, error) from error
    if sum(group_bytes) > MAX_UNPACKED_BYTES:
        raise problem("error.unpacked", file=path.name, size_bytes=sum(group_bytes), most_bytes=MAX_UNPACKED_BYTES)
    rows = min(batch_rows, max(1, MAX_BATCH_BYTES // max([1, *group_bytes])))
    return file.metadata.num_rows, with_limit(_records(file.iter_batches(batch_size=rows), path), path)


def with_limit(records: Iterator[dict], path: Path) -> Iterator[dict]:
    """The records; raises PlaygroundError where their texts are too long together."""
    characters = 0
    for record in records:
        characters += sum(len(value) for value in record.values() if isinstance(value, (str, bytes, list)))
        if characters > MAX_CHARACTERS:
            raise problem("error.unpacked", file=path.name, size_bytes=characters, most_bytes=MAX_CHARACTERS)
        yield record


def check_groups(path: Path) -> None:
    """Raises PlaygroundError for a file that isn't Parquet, and for one of whose parts read at once is too large."""
    import pyarrow
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.ParquetFile(path).metadata
        largest = max((metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups)), default=0)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _read_error(path, error) from error
    if largest > MAX_UNPACKED_BYTES:
        raise problem("error.unpacked", file=path.name, size_bytes=largest, most_bytes=MAX_UNPACKED_BYTES)


def _records(batches: Iterator[Any], path: Path) -> Iterator[dict]:
    import pyarrow

    while True:
        try:
            batch = next(batches, None)
            records = batch.to_pylist() if batch is not None else None
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            raise _read_error(path, error) from error
        if records is None:
            return
        yield from records


def _read_error(path: Path, error: Exception) -> PlaygroundError:
    return problem("error.parquet", file=path.name, detail=str(error).split("\n")[0][:160])
