"""Parquet files as records, a few at a time, however much they grow when unpacked."""

from collections.abc import Iterator
from pathlib import Path

from playground.errors import PlaygroundError, problem

MOST_UNPACKED = 400 * 2**20  # bytes of all columns once unpacked, as the file states them
AT_ONCE = 2**29  # bytes unpacked at once


def open_parquet(path: Path, most: int) -> tuple[int, Iterator[dict]]:
    """(how many records, the records), read `most` at a time or fewer. Raises PlaygroundError, here or while they are read: no Parquet, too large once unpacked.

    A value may stand for many rows, and so a small file for a huge one; but no value is larger than its row group.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        groups = [file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups)]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _broken(path, error) from error
    if sum(groups) > MOST_UNPACKED:
        raise problem("error.unpacked", file=path.name, size_bytes=sum(groups), most_bytes=MOST_UNPACKED)
    at_once = min(most, max(1, AT_ONCE // max([1, *groups])))
    return file.metadata.num_rows, _records(file.iter_batches(batch_size=at_once), path)


def _records(batches, path: Path) -> Iterator[dict]:
    import pyarrow

    while True:
        try:
            batch = next(batches, None)
            found = batch.to_pylist() if batch is not None else None
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            raise _broken(path, error) from error
        if found is None:
            return
        yield from found


def _broken(path: Path, error: Exception) -> PlaygroundError:
    return problem("error.parquet", file=path.name, detail=str(error).split("\n")[0][:160])
