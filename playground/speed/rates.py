"""What a machine reaches: seconds of an operator by its kind and size, measured once (calibration.py) and kept.

A table has a few sizes with the seconds that were measured; between them seconds grow by a power of the size, and
outside them in proportion to it. Imports no torch, so that any process may read what is kept.
"""

import contextlib
import hashlib
import json
import math
import os
from bisect import bisect_left
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

from playground import catalog
from playground.json_values import read_small_json

SCHEMA = 5  # of what is kept: another one is measured again
STREAM = "elementwise"  # the kind whose table says how fast memory is read and written
BY_BYTES = (
    *("elementwise", "narrow_m", "narrow_n", "narrow_k", "narrow_m_t", "narrow_n_t", "narrow_k_t"),
    *("dequantize", "gemv_4bit", "to_host", "to_device"),
)
QUANTIZED = ("gemv_4bit", "dequantize", "product:int8")  # kinds whose operators a processor takes longer to call
COMPARED = ("cpu",)  # devices whose predicted seconds come near enough to measured ones (tests/bench/README.md)
# Types of about the same speed; int8_fast: products of int8_fast.py, which a GPU makes as fast as the library's;
# float8: 4-bit weights made dense for products of 8 bits.
STAND_INS = {
    "float16": "bfloat16",
    "bfloat16": "float16",
    "bool": "bfloat16",
    "int8_fast": "int8",
    "float8": "bfloat16",
}


@dataclass(frozen=True)
class Rates:
    """What one device reaches.

    device: "cuda" or "cpu". name: the device's. tables: {kind: [[size, seconds], …]}, sizes ascending: bytes for the
    kinds of BY_BYTES, else operations. call: seconds that the processor takes to call an operator, by phase. kernel:
    the least seconds of a kernel on a GPU. token: seconds between two tokens of a chat besides the model. source:
    "measured" on this machine, or "estimated" from another GPU. more: seconds that calling an operator takes beyond
    `call`, by kind (of QUANTIZED) and by stage ("recompute"). loads: what loading a model takes, measured later than
    the rest (predict/load_calibration.py); empty until then.
    """

    device: str
    name: str
    tables: dict[str, list[list[float]]]
    call: dict[str, float]
    kernel: float = 0.0
    token: float = 0.0
    source: str = "measured"
    more: dict[str, float] = field(default_factory=dict)
    loads: dict[str, float] = field(default_factory=dict)

    def seconds(self, kind: str, operations: float, size: float) -> float | None:
        """Seconds of one kernel; None where nothing like it was measured."""
        name, _, dtype = kind.partition(":")
        table = self._table(name, dtype)
        if table is None:
            return None
        if name.startswith("narrow"):  # narrow enough to be limited by memory, or not quite
            products = self._table("product", dtype)
            computing = interpolate(products, operations) if products else 0.0
            return max(self.kernel, interpolate(table, size), computing)
        if name in BY_BYTES:
            return max(self.kernel, interpolate(table, size))
        stream = self._table(STREAM, dtype)
        moving = interpolate(stream, size) if stream else 0.0
        return max(self.kernel, interpolate(table, operations), moving)

    def _table(self, name: str, dtype: str) -> list[list[float]] | None:
        any_type = "float32" if name in ("elementwise", "slow") else ""
        for candidate in (dtype, STAND_INS.get(dtype, ""), any_type):
            if f"{name}:{candidate}" in self.tables:
                return self.tables[f"{name}:{candidate}"]
        if name.endswith("_t"):
            return self._table(name.removesuffix("_t"), dtype)
        return self.tables.get(name)

    def calling(self, kind: str, phase: str, stage: str) -> float:
        """Seconds that the processor takes to call an operator of this kind in that phase, "tune" or "chat"."""
        name = kind if kind in QUANTIZED else kind.partition(":")[0]
        return self.call[phase] + self.more.get(name, 0.0) + self.more.get(stage, 0.0)

    @property
    def trust(self) -> str:
        """How predictions at these rates are labelled: `source`, or "rough" where their error was found to be large."""
        return "rough" if self.source == "measured" and self.device not in COMPARED else self.source


def interpolate(table: list[list[float]], size: float) -> float:
    """Seconds for a size, from a table of [size, seconds]."""
    if size <= table[0][0] or len(table) == 1:
        return table[0][1] * size / table[0][0]
    if size >= table[-1][0]:
        return table[-1][1] * size / table[-1][0]
    after = bisect_left(table, size, key=lambda pair: pair[0])
    (small, fast), (large, slow) = table[after - 1], table[after]
    share = math.log(size / small) / math.log(large / small)
    return fast * (slow / fast) ** share


def kept_rates(device: str, name: str) -> Rates | None:
    """What was measured on this device with these versions before; None if nothing was, or it can't be read."""
    try:
        kept = read_small_json(_file(device, name))
        rates = Rates(**kept)
        return rates if rates.tables and all(rates.tables.values()) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def keep_rates(rates: Rates) -> None:
    """Keep what was measured for later processes; a cache that can't be written keeps nothing."""
    file = _file(rates.device, rates.name)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(asdict(rates)) + "\n", encoding="utf-8")
        os.replace(temporary, file)


def scaled_rates(rates: Rates, name: str, operations: float, bandwidth: float) -> Rates:
    """An estimate for another GPU, whose peaks are that many times those of the measured one.

    It is assumed to reach the same share of its peaks, and the processor to be as fast.
    """

    def scaled(kind: str, table: list[list[float]]) -> list[list[float]]:
        if kind.startswith(("to_host", "to_device")):
            return table
        factor = bandwidth if kind.partition(":")[0] in (*BY_BYTES, "slow") else operations
        return [[size, seconds / factor] for size, seconds in table]

    tables = {kind: scaled(kind, table) for kind, table in rates.tables.items()}
    return replace(rates, name=name, tables=tables, source="estimated", loads={})  # disk and processor aren't known


_version = cache(version)  # reads a file


def _file(device: str, name: str) -> Path:
    threads = os.environ.get("OMP_NUM_THREADS") or os.cpu_count()
    machine = {"schema": SCHEMA, "device": device, "name": name, "torch": _version("torch")}
    machine |= {"bitsandbytes": _version("bitsandbytes"), "threads": threads if device == "cpu" else 0}
    key = hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:16]
    return catalog.cache_folder() / "rates" / f"{key}.json"
