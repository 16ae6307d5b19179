"""Data sets in a folder of this machine: what `save_to_disk` of `datasets` wrote, or Parquet and Arrow files."""

import glob
import re
from pathlib import Path
from typing import Any

from playground import compat
from playground.data import parquet
from playground.data.folder_files import MAX_NAMES, FolderFiles, check_shards, data_files, find_splits
from playground.data.hub_sets import iter_records
from playground.data.records import Reading
from playground.errors import PlaygroundError, Problem, problem

SAVED = ("dataset_dict.json", "dataset_info.json")  # files that save_to_disk writes
OWN_SPLITS = re.compile(r"^---\s*$.*?^\s*(- )?data_files:.*?^---\s*$", re.MULTILINE | re.DOTALL)  # in a README.md
README_CHARS = 2**20


def is_data_folder(path: Path) -> bool:
    """Whether a folder holds a data set that can be read."""
    return any((path / name).is_file() for name in SAVED) or next(data_files(path), None) is not None


def read_folder(path: Path, split: str = "") -> Reading:
    """Read the records of a folder: of the named split, else train, else the first.

    Raises PlaygroundError, at once or while records are read: no data set, no such split (naming those that exist), a
    file that is missing or unpacks to too much at once.
    """
    if not is_data_folder(path):
        raise problem("error.folder", file=path.name)
    is_saved = any((path / name).is_file() for name in SAVED)
    files = None if is_saved else find_splits(path)
    splits = _load(path, files)
    chosen = split or ("train" if "train" in splits else next(iter(splits), ""))
    if chosen not in splits:
        raise problem("error.part_absent", file=path.name, part=split, parts=list(splits))
    check_shards(path, files.splits.get(chosen, []) if files else [])
    rows = splits[chosen]
    if rows.features:
        rows = rows.decode(False)  # pictures and sound stay bytes: they can't be trained on
    reading = Reading(path.name, "folder", records=iter_records(rows, lambda error: _read_error(path, error)))
    reading.parts = list(splits)
    others = [name for name in splits if name != chosen]
    if others and not split:
        reading.notes.append(Problem("note.split", {"split": chosen, "others": others}))
    if files and files.unread and not _has_own_splits(path):
        unread = files.unread[:MAX_NAMES]
        reading.notes.append(Problem("note.files_unread", {"count": len(files.unread), "files": unread}))
    return reading


def _load(path: Path, files: FolderFiles | None) -> dict[str, Any]:
    """The splits of a folder, {name: IterableDataset}; without `files`, of one that save_to_disk wrote."""
    import datasets

    compat.keep_torch_out_of_datasets()
    for file in data_files(path):
        if file.suffix.lower() == ".parquet":
            parquet.check_groups(file)
    try:
        if files is None:
            saved = datasets.load_from_disk(str(path))
            tables = saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}
            return {name: table.to_iterable_dataset() for name, table in tables.items()}
        if _has_own_splits(path):
            return dict(datasets.load_dataset(str(path), streaming=True))
        named = {split: [glob.escape(str(file)) for file in found] for split, found in files.splits.items()}
        return dict(datasets.load_dataset(files.kind, data_files=named, streaming=True))
    except Exception as error:
        raise _read_error(path, error) from error


def _has_own_splits(path: Path) -> bool:
    """Whether a folder's README.md names its files itself, as those of a hub do."""
    try:
        with open(path / "README.md", encoding="utf-8", errors="replace") as file:
            return OWN_SPLITS.match(file.read(README_CHARS)) is not None
    except OSError:
        return False


def _read_error(path: Path, error: Exception) -> PlaygroundError:
    detail = (str(error) or type(error).__name__).split("\n")[0][:200]
    return problem("error.folder_broken", file=path.name, detail=detail)
