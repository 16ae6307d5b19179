"""Which files of a folder hold which split of its data set, and which are missing or belong to none.

By words in the names, as `datasets` does; but that reads some of a folder's files and leaves out others without a word,
where here all are read, or named.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from playground.data.file_kind import KINDS
from playground.errors import problem

SUFFIXES = {".parquet": "parquet", ".arrow": "arrow"}
OTHERS = {suffix for suffix, kind in KINDS.items() if kind != "text"} - set(SUFFIXES)  # read one by one, as a file
DESCRIPTIONS = ("config", "dataset_info", "dataset_infos", "dataset_dict", "state")  # .json
KEYWORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "dev", "val"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
WORDS = re.compile(r"[-._ 0-9]+")
SHARD = re.compile(r"(?P<name>.*)-(?P<number>\d{1,5})-of-(?P<total>\d{1,5})(?P<rest>\D.*|)")
SPLIT_NAME = re.compile(r"\w+(\.\w+)*")
MAX_FILES = 10_000  # that are looked at
MAX_NAMES = 8  # in a message


class FolderFiles(NamedTuple):
    """kind: "parquet" or "arrow". splits: their files, by name. unread: names of the data files that no split has."""

    kind: str
    splits: dict[str, list[Path]]
    unread: list[str]


def data_files(folder: Path) -> Iterator[Path]:
    """The Parquet and Arrow files of a folder and of those within it, without hidden ones."""
    return (file for file in _visible(folder) if file.suffix.lower() in SUFFIXES)


def find_splits(folder: Path) -> FolderFiles:
    """Assign a folder's files to splits. One without any that is trained on takes the files that name no split."""
    files = sorted(data_files(folder))
    kind = Counter(SUFFIXES[file.suffix.lower()] for file in reversed(files)).most_common(1)[0][0]
    splits: dict[str, list[Path]] = {}
    unnamed: list[Path] = []
    others = [file for file in files if SUFFIXES[file.suffix.lower()] != kind]
    for file in (file for file in files if SUFFIXES[file.suffix.lower()] == kind):
        name = split_of(file.relative_to(folder))
        (splits.setdefault(name, []) if name else unnamed).append(file)
    if unnamed and set(splits) <= {"validation", "test"}:
        splits, unnamed = {"train": unnamed, **splits}, []
    order = ("train", "", "validation", "test")
    splits = {name: splits[name] for name in sorted(splits, key=lambda name: order.index(split_of(Path(name))))}
    others += [file for file in _visible(folder) if file.suffix.lower() in OTHERS and file.stem not in DESCRIPTIONS]
    return FolderFiles(kind, splits, [file.relative_to(folder).as_posix() for file in sorted(unnamed + others)])


def split_of(file: Path) -> str:
    """The split that a file's name, or else a folder's, has a word for; "" for none. `file`: within its data set.

    In a folder `data`, as a hub has it, what precedes the number of a shard is the name of a split.
    """
    shard = SHARD.fullmatch(file.stem)
    if shard and file.parts[0] == "data" and SPLIT_NAME.fullmatch(shard["name"]):
        return KEYWORDS.get(shard["name"], shard["name"])
    for part in (file.name, *reversed(file.parts[:-1])):
        found = {KEYWORDS[word] for word in WORDS.split(part) if word in KEYWORDS}
        if found:
            return next(name for name in ("train", "validation", "test") if name in found)
    return ""


def check_shards(folder: Path, files: list[Path]) -> None:
    """Raises PlaygroundError, naming the missing ones, where of "train-00000-of-00002" and so on not all are there."""
    shards: dict[tuple, set[int]] = {}
    for file in files:
        if found := SHARD.fullmatch(file.stem):
            key = (file.parent, found["name"], found["total"], len(found["number"]), file.suffix)
            shards.setdefault(key, set()).add(int(found["number"]))
    for (parent, name, total, width, suffix), numbers in shards.items():
        first = int(int(total) in numbers)  # some count from 1
        missing = [number for number in range(first, first + int(total)) if number not in numbers]
        if missing:
            place = (parent / name).relative_to(folder).as_posix()
            names = [f"{place}-{number:0{width}}-of-{total}{suffix}" for number in missing[:MAX_NAMES]]
            raise problem("error.folder_shards", file=folder.name, count=len(missing), total=int(total), missing=names)


def _visible(folder: Path) -> Iterator[Path]:
    """Files, without those that are hidden or lie in a hidden folder, which `datasets` doesn't read either."""
    for file in islice(folder.rglob("*"), MAX_FILES):
        parts = file.relative_to(folder).parts
        if not any(part.startswith((".", "__")) for part in parts) and file.is_file():
            yield file
