"""The weight files of a model's folder, looked at before they are loaded: are they whole, and how are they stored?

Only headers are read, so a folder of 100 GB takes no longer than a small one. All that is wrong is told at once.
"""

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from playground.errors import PlaygroundError, Problem, problem
from playground.settings import Load

LARGEST_HEADER = 100_000_000  # bytes, as the safetensors library has it
POINTER = b"version https://git-lfs"  # what a clone holds in a large file's place until Git LFS fetches it
SHOWN = 6  # names in a message


def check_files(folder: Path) -> None:
    """Raises PlaygroundError with every weight file that is missing, cut off or no weight file at all."""
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    wrong = [Problem(key, values) for key, values in _missing(folder)]
    wrong += [Problem(key, values) for file in found for key, values in _of_file(file)]
    if wrong:
        raise PlaygroundError(*wrong)


def _missing(folder: Path) -> Iterator[tuple[str, dict]]:
    """Shards that an index names and that aren't there."""
    for index in (folder / "model.safetensors.index.json", folder / "pytorch_model.bin.index.json"):
        if not index.is_file():
            continue
        try:
            named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            yield "error.index_damaged", {"file": index.name}
            continue
        gone = [name for name in named if not (folder / name).is_file()]
        if gone:
            yield "error.shards_missing", {"missing": gone[:SHOWN], "gone": len(gone), "count": len(named)}
        return  # transformers reads the first of the two


def _of_file(file: Path) -> Iterator[tuple[str, dict]]:
    size = file.stat().st_size
    with open(file, "rb") as stream:
        begins = stream.read(max(len(POINTER), 8))
        if begins.startswith(POINTER):
            yield "error.lfs_pointer", {"file": file.name, "size": size}
        elif begins.lstrip()[:1] == b"<":
            yield "error.web_page", {"file": file.name}
        elif file.suffix == ".bin":
            # the older format than zip has no size to check; torch says what is wrong with it
            if begins[:2] == b"PK" and not zipfile.is_zipfile(file):
                yield "error.truncated", {"file": file.name, "size_bytes": size}
        else:
            length = int.from_bytes(begins[:8], "little")
            if size < 8 or length > LARGEST_HEADER:
                yield "error.not_safetensors", {"file": file.name, "size_bytes": size}
            elif size < 8 + length:
                yield "error.truncated", {"file": file.name, "size_bytes": size}
            else:
                stream.seek(8)
                yield from _of_header(file, stream.read(length), size - 8 - length)


def _of_header(file: Path, header: bytes, data: int) -> Iterator[tuple[str, dict]]:
    """data: bytes that come after the header."""
    try:
        tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        ends = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (ValueError, KeyError, AttributeError, TypeError, IndexError):
        yield "error.not_safetensors", {"file": file.name, "size_bytes": file.stat().st_size}
        return
    if data < ends:
        whole = file.stat().st_size - data + ends
        yield "error.cut_off", {"file": file.name, "size_bytes": file.stat().st_size, "whole_bytes": whole}


def check_fit(folder: Path, missing: Sequence[str], mismatched: Sequence[tuple]) -> None:
    """Raises PlaygroundError where the files have no, or another, tensor for a layer of the config.

    What is missing would be filled with random numbers, and answer nonsense. missing: names; mismatched: (name, shape in
    the file, shape by the config).
    """
    wrong = []
    if mismatched:
        name, stored, wanted = min(mismatched)
        wrong.append(
            Problem(
                "error.mismatched",
                {
                    "path": folder.name,
                    "count": len(mismatched),
                    "name": name,
                    "stored": _shape(stored),
                    "wanted": _shape(wanted),
                },
            )
        )
    if missing:
        wrong.append(
            Problem(
                "error.tensors_missing",
                {"path": folder.name, "count": len(missing), "missing": sorted(missing)[:SHOWN]},
            )
        )
    if wrong:
        raise PlaygroundError(*wrong)


def with_stored_quantization(config, load: Load) -> Load:
    """The settings under which weights that are quantized already can be loaded: as they are, or not at all.

    Raises PlaygroundError for another bit width than the stored one, and for formats that only other libraries read.
    """
    stored = getattr(config, "quantization_config", None)
    if not stored:
        return load
    stored = stored if isinstance(stored, dict) else stored.to_dict()
    method = stored.get("quant_method") or "?"
    method = getattr(method, "value", method)
    if method != "bitsandbytes":
        raise problem("error.quant_method", method=method)
    bits = 4 if stored.get("load_in_4bit") else 8
    if load.bits != bits:
        raise problem("error.stored_bits", stored=bits, bits=load.bits)
    return (
        replace(
            load,
            quant_type=stored.get("bnb_4bit_quant_type", load.quant_type),
            double_quant=bool(stored.get("bnb_4bit_use_double_quant", False)),
        )
        if bits == 4
        else load
    )


def _shape(sizes: Sequence[int]) -> str:
    return " × ".join(map(str, sizes))
