"""Find and replace what a text says of this machine and its owner: paths, ids of runs, keys of services."""

import re
from pathlib import Path
from typing import Any

REPLACEMENT = "…"
# A folder's name may hold up to two blanks, where a separator follows; the last part of a path holds none.
_NAME = r"[^\s/\\\"'<>|:*?]+"
_FOLDER = rf"{_NAME}(?: {_NAME}){{0,2}}[/\\]+"
ABSOLUTE_PATH = re.compile(
    rf"file:/+{_NAME}(?:[/\\]+{_NAME})*"
    rf"|(?<!\w)[A-Za-z]:[/\\](?![/\\]{{2}})(?:{_FOLDER})*(?:{_NAME})?"  # C:\ and C:/
    rf"|(?<![\w\\])\\\\[\w.$-]+\\(?:{_FOLDER})*(?:{_NAME})?"  # \\server\share
    rf"|(?<![\w~])~[\w.-]*[/\\](?:{_FOLDER})*(?:{_NAME})?"
    rf"|(?<![\w./<])/(?:[\w.-]+(?: [\w.-]+){{0,2}}/)+(?:{_NAME})?"
)
RUN_ID = re.compile(r"\b[0-9]{8}-[0-9]{6}-[a-z]+(?:-[0-9a-f]{8})?(?:-[0-9]+)?\b")
SECRET_KEY = re.compile(r"\b(?:hf_|api_org_|gh[pousr]_)\w{16,}|\bsk-[\w-]{16,}|\bAKIA[0-9A-Z]{16}\b")
PRIVATE = (ABSOLUTE_PATH, RUN_ID, SECRET_KEY)
_SEPARATOR = re.compile(r"[/\\]")
_FILE = re.compile(r"\.(?:jsonl?|csv|tsv|txt|md|parquet|xlsx?|gz|zip|py|arrow|safetensors|gguf)$", re.IGNORECASE)


def without_private_text(value: Any) -> Any:
    """A JSON value whose texts, at any place, have "…" for each path, id of a run and key."""
    if isinstance(value, str):
        for pattern in PRIVATE:
            value = pattern.sub(REPLACEMENT, value)
        return value
    if isinstance(value, (list, tuple)):
        return [without_private_text(item) for item in value]
    if isinstance(value, dict):
        return {without_private_text(name): without_private_text(item) for name, item in value.items()}
    return value


def without_paths(settings: dict) -> dict:
    """Settings whose model and data set, where they are folders or files of this machine, are their last parts."""
    load, data = settings.get("load", {}), settings.get("data", {})
    return settings | {
        "load": load | {"model": source_name(load.get("model", ""))},
        "data": data | {"source": source_name(data.get("source", ""))},
    }


def last_part(name: str) -> str:
    """The last part of an absolute path; anything else, such as a hub id, unchanged."""
    return _cut(name) if ABSOLUTE_PATH.match(name) else name


def source_name(name: str) -> str:
    """The last part of any path, also of a relative one; a catalog's name, a hub id or an address unchanged."""
    if ABSOLUTE_PATH.match(name):
        return _cut(name)
    if "://" in name or not _SEPARATOR.search(name):
        return name
    is_hub_id = name.count("/") == 1 and "\\" not in name and name[0] not in "./"
    return _cut(name) if not is_hub_id or _FILE.search(name) or _exists(name) else name


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False


def _cut(name: str) -> str:
    return _SEPARATOR.split(name.rstrip("/\\"))[-1]
