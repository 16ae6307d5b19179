"""Find or fetch an adapter's folder by its path or hub id."""

import threading
from collections.abc import Callable, Generator
from pathlib import Path

from playground.catalog.hub_status import access_problem
from playground.errors import problem
from playground.model import hub
from playground.model.adapter_file import WEIGHTS
from playground.model.adapter_folder import CONFIG

# An adapter with its tokenizer and chat template, and neither checkpoints nor the state of an optimizer.
ADAPTER_FILES = [CONFIG, *WEIGHTS, "*token*", "vocab.json", "merges.txt", "chat_template*"]
IGNORED_FILES = ["*/*", "*.py", "*.pkl", "*.pt"]


def is_path(adapter: str) -> bool:
    """Whether an adapter is named by a path, which may not exist, and not by a hub id."""
    path = Path(adapter).expanduser()
    is_id = adapter.count("/") == 1 and not adapter.startswith((".", "~", "/")) and "\\" not in adapter
    try:
        return not is_id or path.is_dir()
    except (OSError, ValueError):  # too long, or a NUL in it
        return True


def fetch_adapter(adapter: str, stop: threading.Event) -> Generator[dict, None, Path]:
    """Yield `phase` and `progress` events until an adapter's files are on this machine; return their folder.

    adapter: a folder or a hub id. Raises PlaygroundError: no such folder or id, hub unreachable, gated, no adapter.
    """
    if is_path(adapter):
        folder = Path(adapter).expanduser()
        try:
            exists = folder.is_dir()
        except (OSError, ValueError):
            exists = False
        if not exists:
            raise problem("error.adapter_folder", path=adapter[:200])
        return folder
    cached = cached_adapter(adapter)
    if cached:
        return cached
    yield {"kind": "phase", "name": "fetch"}
    reason = access_problem(adapter, file=CONFIG)
    if reason:
        raise problem(f"error.adapter_hub_{reason}", repo=adapter[:120])

    def download(on_progress: Callable[..., None]) -> Path:
        return hub.download_files(adapter, ADAPTER_FILES, IGNORED_FILES, on_progress)

    return (yield from hub.run_download(download, adapter, stop))


def cached_adapter(repo: str) -> Path | None:
    """The snapshot folder of an adapter in the hub's cache, or None if its config or weights are missing."""
    try:
        config = hub.cached_file(repo, CONFIG)
    except ValueError:  # no name that a hub has
        return None
    folder = config.parent if config else None
    return folder if folder and any((folder / name).is_file() for name in WEIGHTS) else None
