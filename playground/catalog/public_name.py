"""Names of models and data sets as others may see them: no folder of this machine, no name of an upload."""

import re
from pathlib import Path

from playground.catalog.entries import data_sets, models, shapes

REPO = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)
PLACE = re.compile("[:@]")  # begins what a data set's name says beyond its repo: its config and split
HUB_FILE = re.compile(r"\w[\w.-]*/\w[\w.-]*/[\w./ -]+\.gguf", re.ASCII)
FILE = re.compile(r"\.(jsonl?|csv|tsv|txt|md|parquet|arrow|xlsx?|gz|zst|zip|gguf|safetensors)$", re.IGNORECASE)


def is_hub_id(name: str) -> bool:
    """Whether a name is that of a repo on a hub, and of no file or folder that is here."""
    return REPO.fullmatch(name) is not None and not FILE.search(name) and not _exists(name)


def public_name(name: str) -> str:
    """A model's or data set's name as settings have it, or the last part of a path, also of a relative one."""
    known = name in models() or name in shapes() or name in data_sets() or "://" in name
    if known or is_hub_id(PLACE.split(name, maxsplit=1)[0]) or (HUB_FILE.fullmatch(name) and not _exists(name)):
        return name
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False
