"""Time the products of a model's largest layer in 16 bits and in each 8-bit kind, once per machine, and keep it.

No list of GPUs tells which kind is fast: it depends on the card, the libraries' kernels and the layer's size. So the
largest frozen layer that multiplies in 8 bits is multiplied forward and backward in every kind that this GPU or CPU
has, with its own weight. The figures stay in the cache folder, for this hardware, these versions and this size.
"""

import contextlib
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from playground import catalog
from playground.json_values import read_small_json
from playground.memory import meter
from playground.model import float8, int8_fast
from playground.train import quantized_ops
from playground.train.quantized_ops import FrozenWeight

ROWS = {"cuda": 2048, "cpu": 256}  # tokens of a product
SECONDS = 0.4  # for each kind, its first product left out: that compiles
MIN_PAIRS = 3  # of a forward and a backward product


def product_milliseconds(weight: FrozenWeight, device: str, dtype: torch.dtype) -> dict[str, float]:
    """Milliseconds of a forward and a backward product by kind: "bf16" (or "fp16"), and those in 8 bits.

    weight: of the layer, in a format that is multiplied in 8 bits.
    """
    sizes = {"rows": ROWS[device], "in": weight.in_features, "out": weight.out_features, "format": weight.format}
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "dtype": str(dtype)}
    machine = {"name": meter.hardware(device)["name"], **versions, **sizes}
    key = hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:16]
    file = catalog.cache_folder() / "product-speed" / f"{key}.json"
    kept = _read(file)
    if kept is None:
        kept = _measure(weight, device, dtype)
        with contextlib.suppress(OSError):  # a cache that can't be written: the figures are this run's alone
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(machine | {"milliseconds": kept}) + "\n", encoding="utf-8")
            os.replace(temporary, file)
    return kept


def largest_weight(weights: list[FrozenWeight]) -> FrozenWeight:
    """The one with most numbers."""
    return max(weights, key=lambda weight: weight.in_features * weight.out_features)


def _measure(weight: FrozenWeight, device: str, dtype: torch.dtype) -> dict[str, float]:
    dense = quantized_ops.dequantize(weight, dtype)
    sizes = weight.out_features, weight.in_features
    plain = "fp16" if dtype == torch.float16 else "bf16"
    kinds: dict[str, Callable[[], FrozenWeight]] = {plain: lambda: FrozenWeight(dense, "dense", [], 0, 0, *sizes)}
    if float8.has_products(device) and dtype == torch.bfloat16:
        kinds["fp8"] = lambda: _in_8_bits(float8, "fp8", dense)
    if int8_fast.has_products(device):
        kinds["int8-fast"] = lambda: _in_8_bits(int8_fast, "int8-fast", dense)
    if weight.format == "nf4-fast":
        kinds["nf4-fast"] = lambda: weight
    return {kind: _time(make(), device, dtype) for kind, make in kinds.items()}


def _in_8_bits(products: Any, form: str, dense: Tensor) -> FrozenWeight:
    codes, scales = products.quantize_rows(dense)
    return FrozenWeight(codes, form, [scales], 0, 0, *dense.shape)


def _time(weight: FrozenWeight, device: str, dtype: torch.dtype) -> float:
    """The median of as many pairs of products as SECONDS allow, in milliseconds."""
    # Random numbers: a GPU multiplies equal ones faster than a model's.
    x = torch.randn(ROWS[device], weight.in_features, device=device, dtype=dtype)
    upstream = torch.randn(ROWS[device], weight.out_features, device=device, dtype=dtype)
    seconds: list[float] = []
    began = None
    while began is None or len(seconds) < MIN_PAIRS or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        quantized_ops.frozen_linear(weight, x, None)
        quantized_ops.frozen_linear_backward(weight, upstream)
        if device == "cuda":
            torch.cuda.synchronize()
        if began is None:
            began = time.perf_counter()
        else:
            seconds.append(time.perf_counter() - start)
    return round(1000 * statistics.median(seconds), 4)


def _read(file: Path) -> dict[str, float] | None:
    try:
        kept = read_small_json(file)["milliseconds"]
        return {str(kind): float(value) for kind, value in kept.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
