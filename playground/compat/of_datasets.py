"""datasets' private and fragile APIs: its imports, and which files a data set may name."""

import contextlib
import contextvars
import functools
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

_lock = threading.Lock()
HUB_FOLDER = re.compile(r"hf://datasets/[^/@]+/[^/@]+@")
_own_files_only: contextvars.ContextVar[bool] = contextvars.ContextVar("own_files_only", default=False)


def keep_torch_out_of_datasets() -> None:
    """Have `datasets` stream without torch, which it imports only to share a counter with torch's data loaders."""
    import sys

    import datasets

    if "torch" not in sys.modules:
        datasets.config.TORCH_AVAILABLE = False


class ForeignFiles(ValueError):
    """A hub's data set names a file that isn't its own, as its text."""


@contextlib.contextmanager
def only_own_files() -> Iterator[None]:
    """Have `datasets` look for a hub's data set within its repo alone, whatever paths and addresses its README names.

    What is named elsewhere raises ForeignFiles before it is looked up: later, its existence would show, and an address
    would be asked from here. Only this thread's calls are checked.
    """
    from datasets import data_files

    with _lock:
        found = data_files.resolve_pattern
        if not hasattr(found, "checks_files"):
            data_files.resolve_pattern = _checking_files(found)
    token = _own_files_only.set(True)
    try:
        yield
    finally:
        _own_files_only.reset(token)


def _checking_files(resolve: Callable) -> Callable:
    @functools.wraps(resolve)
    def checked(pattern: str, base_path: Any, *arguments: Any, **named: Any) -> list[str]:
        folder, text = str(base_path), str(pattern)
        foreign = text.startswith(("/", "~")) or "\\" in text or ":" in text or ".." in text.split("/")
        if _own_files_only.get() and (foreign or not HUB_FOLDER.match(folder) or ".." in folder.split("/")):
            raise ForeignFiles(text if foreign else folder)
        return resolve(pattern, base_path, *arguments, **named)

    checked.checks_files = True  # type: ignore[attr-defined]
    return checked
