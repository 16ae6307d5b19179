"""The files of an adapter as they are shared: PEFT's format, a model card, and no path of this machine."""

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from playground.errors import problem
from playground.json_values import read_small_json

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
BLOCK = 4 * 2**20  # bytes copied at once: after each, progress is reported and Stop is obeyed


def adapter_files(adapter: Path, base: str | None, card: str) -> dict[str, Path | bytes]:
    """{name: file, or its content} of an adapter's folder.

    base: what the config names as base model, a hub id; None: the name of the folder that it was trained on.
    Raises PlaygroundError for a folder that isn't complete.
    """
    try:
        config = read_small_json(adapter / CONFIG)
        named = str(config.get("base_model_name_or_path") or "")
        if not (adapter / WEIGHTS).is_file():  # a pipe would be waited for
            raise FileNotFoundError(f"{WEIGHTS}: –")
        with safe_open(adapter / WEIGHTS, "pt") as weights:
            if not list(weights.keys()):
                raise ValueError("no tensors")
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        detail = str(error).replace(str(adapter), adapter.name).split("\n")[0][:200]
        raise problem("error.adapter", path=adapter.parent.name, detail=detail) from error
    config["base_model_name_or_path"] = base or Path(named).name
    files: dict[str, Path | bytes] = {
        path.name: path for path in sorted(adapter.iterdir()) if path.is_file() and path.suffix != ".partial"
    }
    return files | {CONFIG: json.dumps(config, indent=2).encode(), CARD: card.encode("utf-8")}


def total_bytes(files: dict[str, Path | bytes]) -> int:
    """The bytes of all files together."""
    return sum(len(file) if isinstance(file, bytes) else file.stat().st_size for file in files.values())


def write_zip(files: dict[str, Path | bytes], path: Path, folder: str, on_progress: Callable[..., None]) -> None:
    """Write the files into a zip, inside a folder of that name. Weights don't shrink, so nothing is compressed."""
    done, total = 0, total_bytes(files)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, file in files.items():
            with archive.open(f"{folder}/{name}", "w", force_zip64=True) as stream:
                for block in _blocks(file):
                    stream.write(block)
                    done += len(block)
                    on_progress(done, total)


def write_folder(files: dict[str, Path | bytes], folder: Path) -> None:
    """Write the files into a new folder."""
    folder.mkdir()
    for name, file in files.items():
        with open(folder / name, "wb") as stream:
            stream.writelines(_blocks(file))


def _blocks(file: Path | bytes) -> Iterator[bytes]:
    if isinstance(file, bytes):
        yield file
        return
    with open(file, "rb") as stream:
        while block := stream.read(BLOCK):
            yield block
