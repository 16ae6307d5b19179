"""Data sets in a folder of this machine: what `save_to_disk` of `datasets` wrote, or Parquet and Arrow files."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from playground import compat
from playground.data import parquet
from playground.data.hub_sets import iter_records
from playground.data.records import Reading
from playground.errors import PlaygroundError, Problem, problem

SAVED = ("dataset_dict.json", "dataset_info.json")  # files that save_to_disk writes
SUFFIXES = (".parquet", ".arrow")
MAX_FILES = 10_000  # that are looked at


def is_data_folder(path: Path) -> bool:
    """Whether a folder holds a data set that can be read."""
    return any((path / name).is_file() for name in SAVED) or next(_files(path), None) is not None


def read_folder(path: Path, split: str = "") -> Reading:
    """Read the records of a folder: of the named split, else train, else the first.

    Raises PlaygroundError, at once or while records are read: no data set, no such split (naming those that exist), a
    file that unpacks to too much at once.
    """
    if not is_data_folder(path):
        raise problem("error.folder", file=path.name)
    splits = _load(path)
    chosen = split or ("train" if "train" in splits else next(iter(splits), ""))
    if chosen not in splits:
        raise problem("error.part_absent", file=path.name, part=split, parts=list(splits))
    rows = splits[chosen]
    if rows.features:
        rows = rows.decode(False)  # pictures and sound stay bytes: they can't be trained on
    reading = Reading(path.name, "folder", records=iter_records(rows, lambda error: _read_error(path, error)))
    reading.parts = list(splits)
    others = [name for name in splits if name != chosen]
    if others and not split:
        reading.notes.append(Problem("note.split", {"split": chosen, "others": others}))
    return reading


def _load(path: Path) -> dict[str, Any]:
    """The splits of a folder, {name: IterableDataset}."""
    import datasets

    compat.keep_torch_out_of_datasets()
    for file in _files(path):
        if file.suffix.lower() == ".parquet":
            parquet.check_groups(file)
    try:
        if any((path / name).is_file() for name in SAVED):
            saved = datasets.load_from_disk(str(path))
            tables = saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}
            return {name: table.to_iterable_dataset() for name, table in tables.items()}
        return dict(datasets.load_dataset(str(path), streaming=True))
    except Exception as error:
        raise _read_error(path, error) from error


def _files(path: Path) -> Iterator[Path]:
    files = (file for file in islice(path.rglob("*"), MAX_FILES) if file.suffix.lower() in SUFFIXES)
    return (file for file in files if file.is_file())


def _read_error(path: Path, error: Exception) -> PlaygroundError:
    detail = (str(error) or type(error).__name__).split("\n")[0][:200]
    return problem("error.folder_broken", file=path.name, detail=detail)
