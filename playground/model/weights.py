"""Check a model folder's weight files before loading: are they complete, and how are they quantized?

Only headers are read, so a folder of 100 GB takes no longer than a small one. All problems are reported at once.
"""

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedConfig

from playground.errors import PlaygroundError, Problem, problem
from playground.model.weight_files import weight_files
from playground.settings import Load, stored_quant_type

MAX_HEADER = 32 * 2**20  # bytes: of 200,000 tensors; the safetensors library takes 100 MB, which need 1 GiB when parsed
LFS_POINTER = b"version https://git-lfs"  # a clone's stand-in for a large file until Git LFS fetches it
SHOWN = 6  # names in a message


def check_files(folder: Path) -> None:
    """Raise PlaygroundError with every weight file that is missing, truncated or not a weight file."""
    files = weight_files(folder)
    # any safetensors, since config.json can name another file for transformers to read ("transformers_weights")
    here = sorted({*(file for file in files if file.is_file()), *folder.glob("*.safetensors")})
    problems = [*_missing(files), *(error for file in here for error in file_problems(file))]
    if problems:
        raise PlaygroundError(*problems)


def _missing(files: Sequence[Path]) -> Iterator[Problem]:
    """Shards that the index names and the folder lacks."""
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        yield Problem("error.shards_missing", {"missing": missing[:SHOWN], "gone": len(missing), "count": len(files)})


def file_problems(file: Path) -> Iterator[Problem]:
    """What is wrong with one weight file, by its first bytes, its size, and the header of safetensors."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        start = stream.read(max(len(LFS_POINTER), 8))
        if start.startswith(LFS_POINTER):
            yield Problem("error.lfs_pointer", {"file": str(file), "size": size})
        elif start.lstrip()[:1] == b"<":
            yield Problem("error.web_page", {"file": str(file)})
        elif file.suffix == ".bin":
            # torch's format before zip has no size to check; torch reports what is wrong with it
            if start[:2] == b"PK" and not zipfile.is_zipfile(file):
                yield Problem("error.truncated", {"file": str(file), "size_bytes": size})
            elif start[:2] == b"PK":
                yield from unpacking_problems(file)
        else:
            length = int.from_bytes(start[:8], "little")
            if size >= 8 + length > 8 + MAX_HEADER:
                yield Problem(
                    "error.header_large", {"file": str(file), "header_bytes": length, "most_bytes": MAX_HEADER}
                )
            elif size < 8 or length > MAX_HEADER:
                yield Problem("error.not_safetensors", {"file": str(file), "size_bytes": size})
            elif size < 8 + length:
                yield Problem("error.truncated", {"file": str(file), "size_bytes": size})
            else:
                stream.seek(8)
                yield from _header_problems(file, stream.read(length), size)


def unpacking_problems(file: Path) -> Iterator[Problem]:
    """Whether a file of torch.save unpacks to more than its size: torch writes its parts uncompressed."""
    size = file.stat().st_size
    try:
        with zipfile.ZipFile(file) as parts:
            unpacked = sum(part.file_size for part in parts.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        yield Problem("error.truncated", {"file": str(file), "size_bytes": size})
        return
    if unpacked > size:
        yield Problem("error.unpacked", {"file": str(file), "size_bytes": unpacked, "most_bytes": size})


def _header_problems(file: Path, header: bytes, size: int) -> Iterator[Problem]:
    """Whether a safetensors file of `size` bytes has a readable header and all the tensors that it lists."""
    try:
        tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        data = max(map(_end_of, tensors.values()), default=0)
        expected = 8 + len(header) + data
    except (ValueError, KeyError, AttributeError, TypeError, IndexError, RecursionError):
        yield Problem("error.not_safetensors", {"file": str(file), "size_bytes": size})
        return
    if size < expected:
        yield Problem("error.cut_off", {"file": str(file), "size_bytes": size, "whole_bytes": expected})


def _end_of(entry: dict) -> int:
    """Where a tensor ends in a file's data, by its entry in the header. Raises KeyError, TypeError or ValueError."""
    begin, end = entry["data_offsets"]
    numbers, kind = (begin, end, *entry["shape"]), entry["dtype"]
    if not isinstance(kind, str) or any(type(number) is not int or not 0 <= number < 2**63 for number in numbers):
        raise ValueError("no tensor")
    return int(end)


def check_fit(folder: Path, missing: Sequence[str], mismatched: Sequence[tuple]) -> None:
    """Raise PlaygroundError if the files lack a tensor that the config's network has, or have it in another shape.

    Missing tensors would be filled with random numbers, and the model would answer nonsense.
    missing: tensor names; mismatched: (name, shape in the file, shape by the config).
    """
    problems = []
    if mismatched:
        name, stored, expected = min(mismatched)
        problems.append(
            Problem(
                "error.mismatched",
                {
                    "path": folder.name,
                    "count": len(mismatched),
                    "name": name,
                    "stored": format_shape(stored),
                    "wanted": format_shape(expected),
                },
            )
        )
    if missing:
        some = sorted(missing)[:SHOWN]
        problems.append(Problem("error.tensors_missing", {"path": folder.name, "count": len(missing), "missing": some}))
    if problems:
        raise PlaygroundError(*problems)


def with_stored_quantization(config: PreTrainedConfig, load: Load) -> Load:
    """Return the load settings with the quantization that the weights are stored in, if they are stored quantized.

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
    if bits == 8:
        return replace(load, quant_type_8bit="int8")
    kind = stored.get("bnb_4bit_quant_type", stored_quant_type(load))
    return replace(
        load,
        quant_type=load.quant_type if kind == stored_quant_type(load) else kind,
        double_quant=bool(stored.get("bnb_4bit_use_double_quant", False)),
    )


def format_shape(sizes: Sequence[int]) -> str:
    """A tensor's sizes as errors show them."""
    return " × ".join(map(str, sizes))
