"""Models of a Hugging Face hub: the local cache, whole repos, and single GGUF files."""

import os
import shutil
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from playground import catalog
from playground.background import run_in_background
from playground.catalog.hub_status import TIMEOUT, access_problem, is_connection_error
from playground.errors import PlaygroundError, problem
from playground.model.weight_files import FOREIGN, weight_files
from playground.settings.limits import current_limits

MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
IGNORED_FILES = ["*.py", "*.pkl", "*.pt", "*.msgpack", "*.h5", "*.onnx", "*.gguf", "onnx/*", "original/*", FOREIGN]
MAX_OTHER_FILES = 2**30  # bytes of a download besides its weights
DISK_SHARE = 0.5  # of the free disk that one visitor's download may take: the others' runs need the rest
SHOWN = 6  # file names in a message


def cached_folder(repo: str | None) -> Path | None:
    """Return the snapshot folder of a repo in the hub's cache, or None if any of its weight files is missing.

    A folder whose index of shards can't be read is returned: its checksum tells whether it is damaged, and loading says
    what is wrong with it.
    """
    if not repo:
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, "config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        files = weight_files(folder)
    except PlaygroundError:
        return folder
    return folder if files and all(file.is_file() for file in files) else None


def cached_file(repo: str, name: str) -> Path | None:
    """Return the path of one file in the hub's cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repo, name)
    return Path(path) if isinstance(path, str) else None


def check_access(repo: str, file: str = "") -> None:
    """Raise PlaygroundError if the hub can't be reached, or doesn't give access to the repo or file."""
    reason = access_problem(repo, file=file)
    if reason:
        raise access_error(reason, f"{repo}/{file}" if file else repo)


def access_error(reason: str, name: str) -> PlaygroundError:
    """The error for a reason of `hub_status.access_problem`, with the models that need no hub."""
    return problem(f"error.hub_{reason}", repo=name, offline=catalog.offline_models())


def download_config(repo: str) -> Path:
    """Download a repo's config.json alone; return its path. Raises PlaygroundError."""
    check_access(repo)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, "config.json"))
    except Exception as error:
        if not is_connection_error(error):
            raise
        raise problem("error.hub_broke", repo=repo, detail=type(error).__name__) from error


def download_file(repo: str, name: str, stop: threading.Event) -> Generator[dict, None, Path]:
    """Download one file of a repo; yield `phase` and `progress` events, return its path. Raises PlaygroundError."""
    yield {"kind": "phase", "name": "fetch"}
    check_access(repo, name)

    def download(on_progress: Callable[..., None]) -> Path:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        if current_limits():
            size = get_hf_file_metadata(hf_hub_url(repo, name), timeout=TIMEOUT).size or 0
            _raise_if_too_large(size)
            _raise_if_no_room(0 if cached_file(repo, name) else size)
        return Path(hf_hub_download(repo, name, tqdm_class=_progress_bar_class(on_progress)))

    return (yield from run_download(download, f"{repo}/{name}", stop))


def download_model(repo: str, stop: threading.Event) -> Generator[dict, None, Path]:
    """Download a repo's config, tokenizer and weights; yield `progress` events, return the folder.

    Safetensors are preferred; *.bin files are fetched only from repos without any. Raises PlaygroundError for a repo
    without weights, with GGUF files only, or when the connection breaks.
    """

    def download(on_progress: Callable[..., None]) -> Path:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import filter_repo_objects

        names = [file.rfilename for file in HfApi().model_info(repo, timeout=TIMEOUT).siblings or ()]
        usable = list(filter_repo_objects(names, ignore_patterns=IGNORED_FILES))
        if not any(name.endswith((".safetensors", ".bin")) for name in usable):
            ggufs = [name for name in names if name.endswith(".gguf")]
            key = "error.only_gguf" if ggufs else "error.no_weights_hub"
            raise problem(key, repo=repo, found=(ggufs or names)[:SHOWN])
        patterns = MODEL_FILES if any(name.endswith(".safetensors") for name in usable) else [*MODEL_FILES, "*.bin"]
        return download_files(repo, patterns, IGNORED_FILES, on_progress)

    return (yield from run_download(download, repo, stop))


def download_files(
    repo: str, patterns: list[str], ignored_patterns: list[str], on_progress: Callable[..., None]
) -> Path:
    """Download the files of a repo that match one pattern and no ignored one; return their folder."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    if current_limits():
        files = HfApi().model_info(repo, timeout=TIMEOUT, files_metadata=True).siblings or ()
        sizes = {file.rfilename: file.size or 0 for file in files}
        chosen = filter_repo_objects(sizes, allow_patterns=patterns, ignore_patterns=ignored_patterns)
        names = list(chosen)
        _raise_if_too_large(sum(sizes[name] for name in names))
        _raise_if_no_room(sum(sizes[name] for name in names if not cached_file(repo, name)))
    return Path(
        snapshot_download(
            repo,
            allow_patterns=patterns,
            ignore_patterns=ignored_patterns,
            tqdm_class=_progress_bar_class(on_progress),
        )
    )


def _raise_if_too_large(size: int) -> None:
    """Raise PlaygroundError for a larger download than the largest model that a visitor may load, at 32 bits."""
    limits = current_limits()
    most = limits.parameters * 4 + MAX_OTHER_FILES if limits else size
    if size > most:
        raise problem("shared.download", size_bytes=size, most_bytes=most)


def _raise_if_no_room(size: int) -> None:
    """Raise PlaygroundError for a visitor's download that takes more than DISK_SHARE of the disk's free space."""
    from huggingface_hub.constants import HF_HUB_CACHE

    Path(HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(HF_HUB_CACHE).free
    if size > DISK_SHARE * free:
        raise problem("shared.download_disk", size_bytes=size, free_bytes=free)


def run_download(
    download: Callable[[Callable[..., None]], Path], name: str, stop: threading.Event
) -> Generator[dict, None, Path]:
    """Run a download in the background. If the connection breaks, what has arrived is kept and resumed next time."""
    try:
        path = yield from run_in_background(download, stop)
    except Exception as error:
        if not is_connection_error(error):
            raise
        raise problem("error.hub_broke", repo=name, detail=type(error).__name__) from error
    assert isinstance(path, Path)
    return path


def _progress_bar_class(on_progress: Callable[..., None]) -> type:
    """A tqdm class that draws nothing and reports the bytes of all files together."""
    from tqdm.auto import tqdm

    bars: list = []

    class ByteCounter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = False
            kwargs["file"] = open(os.devnull, "w")
            super().__init__(*args, **kwargs)
            if kwargs.get("unit") == "B":
                bars.append(self)

        def update(self, n: float | None = 1) -> bool | None:
            drawn = super().update(n)
            if bars:
                on_progress(sum(bar.n for bar in bars), sum(bar.total or bar.n for bar in bars))
            return drawn

    return ByteCounter
