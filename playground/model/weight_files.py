"""The files that a model's weights are read from: one file of the usual name, or the shards that an index names.

As transformers does: safetensors before torch's files, a single file before an index. Nothing else in the folder
counts, such as Mistral's consolidated.safetensors: the same weights once more, under names of another library.
"""

import json
from pathlib import Path

from playground.errors import problem

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")  # an index is named after the file that it replaces
FOREIGN = "consolidated*"  # files of mistral-inference


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's weights, including shards that an index names and the folder lacks.

    Without any file or index of the usual names: all weight files. Raises PlaygroundError for an index that can't be
    read, or that names files elsewhere.
    """
    for name in SINGLE_FILES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return [folder / shard for shard in _shard_names(index)]
    found = sorted(set(folder.glob("*.safetensors")) - set(folder.glob(FOREIGN)))
    return found or sorted(folder.glob("pytorch_model*.bin"))


def _shard_names(index: Path) -> list[str]:
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise problem("error.index_damaged", file=index.name) from error
    elsewhere = sorted(str(name) for name in named if not _is_file_name(name))
    if elsewhere:
        raise problem("error.shards_elsewhere", file=index.name, name=elsewhere[0][:120])
    return sorted(named)


def _is_file_name(name: object) -> bool:
    """Whether what an index names is a file beside it, and no path that leads elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set("/\\\0") & set(name)
