"""Measure once per machine how fast its CPU multiplies bfloat16 and 8-bit integers, and keep it in the cache folder.

Two processes that measured it themselves could come to different bit widths for "auto" in one session, since other work
on the machine disturbs a measurement. So the first figure stays, for this processor and this version of torch.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from playground import catalog
from playground.json_values import read_small_json
from playground.memory import meter
from playground.model import int8_cpu

MEASURING_SECONDS = 0.5  # until no further pair of products is begun
MIN_PAIRS, MAX_PAIRS = 3, 40  # of products, one in each type
clock = time.perf_counter if sys.platform == "win32" else time.thread_time  # Windows counts that in steps of 16 ms
SIZES = 256, 576, 1536  # tokens, and the sides of a weight
HALF = torch.bfloat16


@cache
def bf16_speedup() -> float:
    """How many times as fast as float32 this CPU multiplies bfloat16 matrices, as it was first measured here."""
    return _kept("bf16_speedup", _measure)


@cache
def int8_speedup() -> float:
    """How many times as fast as bfloat16 it multiplies 8-bit integers, with what rounds to them; as first measured."""
    return _kept("int8_speedup", _measure_int8)


def _kept(figure: str, measure: Callable[[], float]) -> float:
    machine = {"processor": meter.hardware("cpu")["name"], "cores": os.cpu_count(), "torch": torch.__version__}
    key = hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:16]
    file = catalog.cache_folder() / "cpu-speed" / f"{figure}-{key}.json"
    kept = _read(file, figure)
    if kept is None:
        kept = measure()
        with contextlib.suppress(OSError):  # a cache that can't be written: the figure is this process's alone
            _write(file, machine | {figure: kept}, figure)
            kept = _read(file, figure) or kept
    return kept


def _measure() -> float:
    """The CPU's feature flags don't settle it: AVX-512 bf16 without AMX can be the slower of the two, and a CPU without
    either can take a hundred times as long."""
    tokens, inner, outer = SIZES
    factors = {
        t: (torch.ones(tokens, inner, dtype=t), torch.ones(inner, outer, dtype=t)) for t in (torch.float32, HALF)
    }
    return _speedup(*(partial(torch.mm, *pair) for pair in factors.values()))


def _measure_int8() -> float:
    """A frozen layer's products forward and backward. Without instructions for it, integers can be far slower."""
    tokens, inner, outer = SIZES
    x, upstream, weight = (torch.randn(sizes).to(HALF) for sizes in ((tokens, inner), (tokens, outer), (outer, inner)))
    codes, scales = int8_cpu.quantize_tokens(weight, None)

    def in_half() -> None:
        x @ weight.T
        upstream @ weight

    def in_integers() -> None:
        rows, row_scales = int8_cpu.quantize_tokens(x, None)
        int8_cpu.multiply(rows, codes, row_scales, scales, None, HALF)
        rows, row_scales = int8_cpu.quantize_tokens(upstream, scales)
        int8_cpu.multiply(rows, codes.t(), row_scales, None, None, HALF)

    return _speedup(in_half, in_integers)


def _speedup(plain: Callable[[], Any], other: Callable[[], Any]) -> float:
    """How many times as fast as the first the second is, the fastest call of each.

    In one thread and by its own time of the processor, which other work on the machine takes nothing of.
    """
    fastest = [float("inf"), float("inf")]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        began = time.perf_counter()
        for pair in range(MAX_PAIRS):
            if pair >= MIN_PAIRS and time.perf_counter() - began > MEASURING_SECONDS:
                break
            for number, call in enumerate((plain, other)):
                start = clock()
                call()
                fastest[number] = min(fastest[number], clock() - start)
    finally:
        torch.set_num_threads(threads)
    return round(fastest[0] / fastest[1], 3)


def _read(file: Path, figure: str) -> float | None:
    try:
        return float(read_small_json(file)[figure])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(file: Path, figures: dict, figure: str) -> None:
    """Write the file whole, unless another process was first. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    try:
        os.link(temporary, file)
    except FileExistsError:
        if _read(file, figure) is None:  # damaged
            os.replace(temporary, file)
    except OSError:  # a file system without links
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
