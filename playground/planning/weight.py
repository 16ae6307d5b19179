"""What a number format makes of a weight: a real layer's values before and after, and one block of them on its grid."""

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from playground.errors import problem
from playground.lab.formats import Format, parse_format
from playground.lab.grid import block_size, quantize_with_grid
from playground.lab.quantize import bits_per_weight, block_problems
from playground.model.source import local_folder
from playground.model.tensor_names import natural_order
from playground.model.weight_files import weight_files
from playground.settings import raise_all

MAX_WEIGHTS = 2**18  # of a layer, from its first rows: so that a slider is answered at once
BINS = 81  # of the histograms; odd, so that 0 is in the middle of one
SHOWN = 32  # weights of a block
OUTLIER = 4.0  # standard deviations
FLOATS = ("F64", "F32", "F16", "BF16")  # types of tensors that hold weights rather than codes
FLOAT_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt")  # families whose layers are Conv1D, which stores (in, out)
State = tuple[tuple[str, int, int], ...]  # of a model's files: names, sizes and times of change
NOT_LAYERS = ("embed", "wte", "wpe", "lm_head", "embed_out", "norm", "shared")  # parts of names


def weight_picture(model: str, layer: str, format: str) -> dict:
    """A layer of a model on this machine in a number format. layer: a name among the answer's "layers", or "".

    Returns {"layers", "layer", "shape" (out, in), "weights" (how many were read), "bits" (a weight), "edge" (the
    histograms reach from -edge to edge), "before" and "after" (counts), "block" {"before", "after", "grid"}, "error"
    {"largest", "mean", "rms", "relative"}, "outliers" {"share", "of_error"}}. Raises PlaygroundError.
    """
    parsed = parse_format(format)
    folder = local_folder(model)
    if folder is None:
        raise problem("error.lab_not_here", model=model)
    names = layer_names(folder)
    name = layer if layer in names else names[0]
    weight, shape = read_rows(folder, name)
    raise_all(block_problems([parsed], [weight.shape[1]]))
    quantized, grid = quantize_with_grid(weight, parsed)
    after = quantized.values
    error = after - weight
    edge = float(weight.abs().max().clamp(min=1e-12))
    far = weight.abs() > OUTLIER * weight.std()
    return {
        "layers": names,
        "layer": name,
        "shape": list(shape),
        "weights": weight.numel(),
        "bits": round(bits_per_weight(parsed, (weight.shape[0], weight.shape[1])), 3),
        "edge": edge,
        "before": torch.histc(weight, BINS, -edge, edge).int().tolist(),
        "after": torch.histc(after.clamp(-edge, edge), BINS, -edge, edge).int().tolist(),
        "block": _block(weight, after, grid, parsed),
        "error": {
            "largest": float(error.abs().max()),
            "mean": float(error.abs().mean()),
            "rms": float(error.square().mean().sqrt()),
            "relative": float(error.norm() / weight.norm().clamp(min=1e-12)),
        },
        "outliers": {
            "share": float(far.float().mean()),
            "of_error": float(error[far].square().sum() / error.square().sum().clamp(min=1e-30)),
        },
    }


def layer_names(folder: Path) -> list[str]:
    """The names of the matrices that a quantizing load would quantize, in the order of the layers.

    Raises PlaygroundError where there is none, where weights are stored as codes, or in files of another kind.
    """
    return _layer_names(folder, _state(folder))


def _state(folder: Path) -> State:
    """What differs once another model was written into a folder: what is read of it is remembered until then."""
    found = ((file.name, file.stat()) for file in (*_files(folder), folder / "config.json") if file.is_file())
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


@lru_cache(maxsize=8)
def _layer_names(folder: Path, state: State) -> list[str]:
    names, has_codes = [], "quantization_config" in _config(folder)
    for file in _files(folder):
        with _open(file) as tensors:
            for name in tensors.keys():
                is_layer = name.endswith(".weight") and not any(part in name for part in NOT_LAYERS)
                part = tensors.get_slice(name)
                if is_layer and len(part.get_shape()) == 2:
                    is_code = part.get_dtype() not in FLOATS
                    has_codes |= is_code
                    names += [] if is_code else [name]
    if not names:
        raise problem("error.lab_quantized") if has_codes else problem("error.lab_no_linear", family=folder.name)
    return sorted(names, key=natural_order)


def _files(folder: Path) -> list[Path]:
    """The files of a model's weights that are there. Raises PlaygroundError where they are neither safetensors nor
    torch's, and for an index of shards that can't be read.
    """
    files = [file for file in weight_files(folder) if file.is_file()]
    if not files:
        raise problem("error.weight_files", model=folder.name)
    return files


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    """A file of weights with `keys` and `get_slice`, of which no more is read than is asked for.

    A .bin file is mapped rather than read, and nothing in it is run. Raises PlaygroundError for one that can't be
    mapped: versions of torch before 1.6 wrote these, and all of it would have to be read.
    """
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as tensors:
            yield tensors
        return
    try:
        mapped = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise problem("error.weight_files", model=file.parent.name) from error
    found = mapped if isinstance(mapped, dict) else {}
    yield _Mapped({name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)})


class _Mapped(dict[str, Tensor]):
    """Tensors by name, as safetensors' files have them."""

    def get_slice(self, name: str) -> "_Slice":
        return _Slice(self[name])


@dataclass(frozen=True)
class _Slice:
    tensor: Tensor

    def get_shape(self) -> list[int]:
        return list(self.tensor.shape)

    def get_dtype(self) -> str:
        return FLOAT_NAMES.get(self.tensor.dtype, "")

    def __getitem__(self, index: Any) -> Tensor:
        return self.tensor[index].clone()


def _config(folder: Path) -> dict[str, Any]:
    """A model's config.json; {} where it can't be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def read_rows(folder: Path, name: str) -> tuple[Tensor, tuple[int, int]]:
    """The first rows of a matrix (out, in), at most MAX_WEIGHTS weights, float32; and the whole matrix's shape."""
    return _read_rows(folder, name, _state(folder))


@lru_cache(maxsize=4)
def _read_rows(folder: Path, name: str, state: State) -> tuple[Tensor, tuple[int, int]]:
    for file in _files(folder):
        with _open(file) as tensors:
            if name in tensors.keys():
                part = tensors.get_slice(name)
                rows, columns = part.get_shape()
                if _config(folder).get("model_type") in TRANSPOSED:
                    return part[:, : max(1, MAX_WEIGHTS // rows)].float().T.contiguous(), (columns, rows)
                return part[: max(1, MAX_WEIGHTS // columns)].float(), (rows, columns)
    raise problem("error.lab_not_here", model=folder.name)


def _block(weight: Tensor, after: Tensor, grid: Tensor | None, format: Format) -> dict[str, list[float]]:
    """The first weights of the first block, what they become, and the values that there are for them.

    Where a format has no grid of values for a block: those that occur.
    """
    shown = min(block_size(format) or SHOWN, SHOWN)
    before, becomes = weight.flatten()[:shown], after.flatten()[:shown]
    values = becomes.unique() if grid is None else grid
    return {"before": before.tolist(), "after": becomes.tolist(), "grid": values.tolist()}
