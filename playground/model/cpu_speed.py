"""Measure once per machine how fast its CPU multiplies bfloat16, and keep the figure in the cache folder.

Two processes that measured it themselves could come to different bit widths for "auto" in one session, since other work
on the machine disturbs a measurement. So the first figure stays, for this processor and this version of torch.
"""

import contextlib
import hashlib
import json
import os
import time
from functools import cache
from pathlib import Path

import torch

from playground import catalog
from playground.json_values import read_small_json
from playground.memory import meter

MEASURING_SECONDS = 0.5  # until no further pair of products is begun
MIN_PAIRS, MAX_PAIRS = 3, 40  # of products, one in each type


@cache
def bf16_speedup() -> float:
    """How many times as fast as float32 this CPU multiplies bfloat16 matrices, as it was first measured here."""
    machine = {"processor": meter.hardware("cpu")["name"], "cores": os.cpu_count(), "torch": torch.__version__}
    key = hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:16]
    file = catalog.cache_folder() / "cpu-speed" / f"{key}.json"
    kept = _read(file)
    if kept is None:
        kept = _measure()
        with contextlib.suppress(OSError):  # a cache that can't be written: the figure is this process's alone
            _write(file, machine | {"bf16_speedup": kept})
            kept = _read(file) or kept
    return kept


def _measure() -> float:
    """Multiply both types in turn, so that other work disturbs both alike; the fastest product of each type counts.

    The CPU's feature flags don't settle it: AVX-512 bf16 without AMX can be the slower of the two, and a CPU without
    either can take a hundred times as long.
    """
    factors = {
        t: (torch.ones(256, 576, dtype=t), torch.ones(576, 1536, dtype=t)) for t in (torch.float32, torch.bfloat16)
    }
    fastest = dict.fromkeys(factors, float("inf"))
    began = time.perf_counter()
    for pair in range(MAX_PAIRS):
        if pair >= MIN_PAIRS and time.perf_counter() - began > MEASURING_SECONDS:
            break
        for dtype, (left, right) in factors.items():
            start = time.perf_counter()
            left @ right
            fastest[dtype] = min(fastest[dtype], time.perf_counter() - start)
    return round(fastest[torch.float32] / fastest[torch.bfloat16], 3)


def _read(file: Path) -> float | None:
    try:
        return float(read_small_json(file)["bf16_speedup"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(file: Path, figures: dict) -> None:
    """Write the file whole, unless another process was first. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    try:
        os.link(temporary, file)
    except FileExistsError:
        if _read(file) is None:  # damaged
            os.replace(temporary, file)
    except OSError:  # a file system without links
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
