"""Time a device's kernels, one kind at a time and at a few sizes: products, attention, memory, copies, 4 and 8 bits.

What is measured here are the tables of rates.py. Nothing here knows the models that are predicted later.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from playground.model import float8, int8_fast
from playground.model.cpu_speed import bf16_speedup
from playground.model.dtype import MIN_BF16_SPEEDUP
from playground.speed.rates import BY_BYTES

clock = time.perf_counter  # a benchmark on a busy machine takes the processor's own time instead
PROBE_SECONDS = {"cpu": 0.04, "cuda": 0.005}  # of repeating one size
QUEUING_CYCLES = 6_000_000  # of the GPU's clock, about 3 ms, in which a probe's calls are queued
MIN_REPEATS = 3
SIZES: dict[str, list[tuple[int, int, int]]] = {  # of products: rows, columns, what is summed over
    "cpu": [(128, 192, 576), (128, 576, 1536), (512, 1536, 576), (1024, 2048, 1024)],
    "cuda": [(512, 1024, 1024), (2048, 2048, 2048), (4096, 4096, 4096), (5120, 11008, 4096)],
}
ROTATING = {"cpu": 16, "cuda": 4}  # weights read in turn: more than caches hold
HEATING_SECONDS = 0.7
NARROW = 8  # rows or columns of a narrow product
PATTERN = 2**20  # random numbers that a large tensor repeats: making them takes longer than many a kernel
INT8_SIZES = [(2, 64, 64), (2, 576, 1536), (2, 2048, 1024), (256, 2048, 1024)]  # on a CPU; the first: calling it
INT8_THRESHOLD = 6.0  # of LLM.int8()'s outliers, as models are loaded
STREAMS = {"cpu": (2**16, 2**20, 2**24, 2**26), "cuda": (2**20, 2**24, 2**27, 2**28)}  # bytes


def measure_kernels(device: str, until: float) -> tuple[dict[str, list[list[float]]], float]:
    """Measure the tables of rates.Rates, and the least seconds of a kernel on a GPU.

    until: the moment of `clock` after which no more sizes are begun.
    """
    probes = _Probes(device, until)
    kernel = _least_kernel_seconds() if device == "cuda" else 0.0
    half = half_types(device)
    sustained = _sustained_seconds(half[0]) if device == "cuda" else 0.0
    for dtype in half:
        _measure_type(probes, device, dtype)
    if device == "cuda":
        _measure_copies(probes)
        _slow_down(probes.tables, half[0], sustained)
    else:
        _measure_int8_of_cpu(probes)
    return probes.tables, kernel


@dataclass
class _Probes:
    """Tables of seconds by kind while they are measured. until: the moment after which nothing new is begun."""

    device: str
    until: float
    tables: dict[str, list[list[float]]] = field(default_factory=dict)

    def add(
        self, kind: str, dtype: Any, operations: float, size: float, run: Callable[[], Any], calls: int = 1
    ) -> None:
        """Measure a kernel, unless the time is over and the kind has a size already, or the device can't run it.

        calls: of the kernel, by `run`.
        """
        name = kind if dtype is None else f"{kind}:{str(dtype).removeprefix('torch.')}"
        if clock() > self.until and name in self.tables:
            return
        with contextlib.suppress(RuntimeError, NotImplementedError):  # no kernel for it here
            pair = [size if kind in BY_BYTES else operations, self._time(run) / calls]
            self.tables[name] = sorted([*self.tables.get(name, []), pair])

    def _time(self, run: Callable[[], Any]) -> float:
        """Median seconds of a call; on a GPU of calls that are queued one after the other."""
        run()
        if self.device == "cuda":
            return self._time_on_gpu(run)
        seconds: list[float] = []
        began = clock()
        while len(seconds) < MIN_REPEATS or clock() - began < PROBE_SECONDS["cpu"]:
            start = clock()
            run()
            seconds.append(clock() - start)
        return min(seconds)  # other work on the machine only adds to it

    def _time_on_gpu(self, run: Callable[[], Any]) -> float:
        torch.cuda.synchronize()
        start = clock()
        run()
        torch.cuda.synchronize()
        repeats = max(MIN_REPEATS, min(100, int(PROBE_SECONDS["cuda"] / (clock() - start))))
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(QUEUING_CYCLES)
        begin.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000 / repeats


def _sustained_seconds(dtype: torch.dtype) -> float:
    """Seconds of the largest product after much of nothing else: a GPU lowers its clock to keep its power limit."""
    m, n, k = SIZES["cuda"][-1]
    x, w = (_random(rows, k, device="cuda", dtype=dtype) for rows in (m, n))
    until, seconds = clock() + HEATING_SECONDS, 0.0
    while clock() < until:
        began = clock()
        for _ in range(100):
            functional.linear(x, w)
        torch.cuda.synchronize()
        seconds = (clock() - began) / 100
    return seconds


def _slow_down(tables: dict[str, list[list[float]]], half: torch.dtype, sustained: float) -> None:
    """Multiply what matrix units computed in the short probes, with pauses between them, by what sustained work takes.

    sustained: seconds of the largest product in `half`.
    """
    name, (m, n, k) = str(half).removeprefix("torch."), SIZES["cuda"][-1]
    operations, seconds = tables[f"product:{name}"][-1]
    factor = max(1.0, sustained / seconds) if operations == 2 * m * n * k else 1.0  # else time was over before it
    for kind in (f"product:{name}", f"attention:{name}", "product:int8", "product:float8"):
        tables[kind] = [[size, seconds * factor] for size, seconds in tables.get(kind, [])]
        if not tables[kind]:
            del tables[kind]


def half_types(device: str) -> list[torch.dtype]:
    """The types of numbers to measure, that of most computing first; on a CPU bfloat16 only where it is usable."""
    if device == "cpu":
        return [torch.bfloat16, torch.float32] if bf16_speedup() >= MIN_BF16_SPEEDUP else [torch.float32]
    half = torch.float16 if torch.cuda.get_device_capability()[0] < 8 else torch.bfloat16
    return [half, torch.float32]


def _measure_type(probes: _Probes, device: str, dtype: torch.dtype) -> None:
    item = dtype.itemsize
    make = partial(_random, device=device, dtype=dtype)
    for m, n, k in SIZES[device]:
        x, w = make(m, k), make(n, k)
        probes.add("product", dtype, 2 * m * n * k, 0, partial(_there_and_back, x, w, make(m, n)), 2)
    m, n, k = SIZES[device][-1]
    x, w, wide = make(m, k), make(n, k), make(m, n)
    few, down, up = make(2, k), make(NARROW, k), make(n, NARROW)
    low = make(m, NARROW)
    rotating = _rotation([w.clone() for _ in range(ROTATING[device])])
    probes.add("narrow_m", dtype, 0, item * (2 * k + n * k + 2 * n), lambda: functional.linear(few, next(rotating)))
    probes.add("narrow_m_t", dtype, 0, item * (m * k + m * NARROW + k * NARROW), lambda: low.T @ x)
    probes.add("narrow_n", dtype, 0, item * (m * k + k * NARROW + m * NARROW), lambda: x @ down.T)
    probes.add("narrow_n_t", dtype, 0, item * (m * n + m * NARROW + n * NARROW), lambda: wide.T @ low)
    probes.add("narrow_k", dtype, 0, item * (m * NARROW + NARROW * n + 2 * m * n), lambda: wide.addmm_(low, up.T))
    for size in STREAMS[device]:
        a, b = make(size // 2 // item), make(size // 2 // item)
        probes.add("elementwise", dtype, 0, 1.5 * size, partial(torch.add, a, b))
        probes.add("slow", dtype, size // 2 // item, 0, partial(functional.silu, a))
    heads, tokens, width = (9, 256, 64) if device == "cpu" else (32, 1024, 128)
    q, key, v = (make(1, heads, tokens, width) for _ in range(3))
    pairs = heads * tokens * tokens * width / 2
    attend = partial(functional.scaled_dot_product_attention, q, key, v, is_causal=True)
    probes.add("attention", dtype, 4 * pairs, 0, attend)
    if dtype != torch.float32 or device == "cpu":
        _measure_quantized(probes, device, dtype)


def _measure_quantized(probes: _Probes, device: str, dtype: torch.dtype) -> None:
    """4-bit weights made dense and multiplied as they are, and products of 8 bits."""
    from bitsandbytes import functional as bnb

    _, n, k = SIZES[device][-1]
    dense = _random(n, k, device=device, dtype=dtype)
    packed, state = bnb.quantize_4bit(dense, quant_type="nf4")
    size = packed.nbytes + 4 * state.absmax.numel() + dense.nbytes
    probes.add("dequantize", dtype, 0, size, lambda: bnb.dequantize_4bit(packed, state))
    few = _random(2, k, device=device, dtype=dtype)
    shape = [n, k]
    gemm = getattr(torch.ops.bitsandbytes, "gemm_4bit", None)
    if gemm is not None:
        size = packed.nbytes + 4 * state.absmax.numel()
        run = partial(gemm, few, packed, shape, state.absmax, state.blocksize, "nf4")
        probes.add("gemv_4bit", dtype, 0, size, run)
    if device == "cuda" and dtype != torch.float32:
        _measure_8_bit_products(probes, device)


def _measure_int8_of_cpu(probes: _Probes) -> None:
    """LLM.int8() as a chat calls it: most of a token's time goes to what surrounds the product of integers."""
    import bitsandbytes

    for m, n, k in INT8_SIZES:
        x = _random(m, k, device="cpu", dtype=torch.float32)
        weight = _random(n, k, device="cpu", dtype=torch.float16)
        codes, scales, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(weight)
        state = bitsandbytes.MatmulLtState(SCB=scales)
        state.has_fp16_weights = state.is_training = False
        rotating = _rotation([codes.clone() for _ in range(ROTATING["cpu"])])
        probes.add("product:int8", None, 2 * m * n * k, 0, partial(_multiply_int8, x, state, rotating))
    if int8_fast.has_products("cpu"):
        for m, n, k in SIZES["cpu"]:
            x, upstream = (_random(m, columns, device="cpu", dtype=torch.bfloat16) for columns in (k, n))
            codes, scales = int8_fast.quantize_rows(_random(n, k, device="cpu", dtype=torch.bfloat16))
            run = partial(_there_and_back_in_int8, codes, scales, x, upstream)
            probes.add("product:int8_fast", None, 2 * m * n * k, 0, run, 2)


def _there_and_back_in_int8(codes: Tensor, scales: Tensor, x: Tensor, upstream: Tensor) -> None:
    """A frozen layer's products of int8_fast.py, with what rounds tokens and gradients."""
    int8_fast.linear(codes, scales, x, None)
    int8_fast.linear_backward(codes, scales, upstream)


def _multiply_int8(x: Tensor, state: Any, weights: Iterator[Tensor]) -> Tensor:
    """A frozen layer of LLM.int8() in a chat; state: bitsandbytes' MatmulLtState with the weights' scales."""
    import bitsandbytes

    state.CB = next(weights)
    return bitsandbytes.matmul(x, state.CB, state=state, threshold=INT8_THRESHOLD)


def _measure_8_bit_products(probes: _Probes, device: str) -> None:
    """By the libraries' own kernels, which need no compiling."""
    for m, n, k in SIZES[device][1:]:
        codes, weight = (_random(rows, k, device=device, dtype=torch.float32) for rows in (m, n))
        a, b = (tensor.clamp_(-3, 3).mul_(40).to(torch.int8) for tensor in (codes, weight))
        probes.add("product:int8", None, 2 * m * n * k, 0, partial(torch._int_mm, a, b.t()))
        if float8.has_products(device):
            ones = torch.ones(m, device=device), torch.ones(n, device=device)
            a, b = codes.to(float8.E4M3), weight.to(float8.E4M3).view(torch.uint8)
            run = partial(float8.multiply, a, b, *ones, None)
            probes.add("product:float8", None, 2 * m * n * k, 0, run)


def _measure_copies(probes: _Probes) -> None:
    host, card = (
        torch.empty(2**26, dtype=torch.uint8, pin_memory=True),
        torch.empty(2**26, dtype=torch.uint8, device="cuda"),
    )
    probes.add("to_host", None, 0, 2**26, lambda: host.copy_(card, non_blocking=True))
    probes.add("to_device", None, 0, 2**26, lambda: card.copy_(host, non_blocking=True))


def _there_and_back(x: Tensor, w: Tensor, upstream: Tensor) -> None:
    """A frozen layer's forward and backward product; both take the same operations."""
    functional.linear(x, w)
    upstream @ w


def _rotation(tensors: list[Tensor]) -> Iterator[Tensor]:
    """Endlessly one after the other, so that none is still in a cache when it is read again."""
    while True:
        yield from tensors


def _random(*sizes: int, device: str, dtype: torch.dtype) -> Tensor:
    """Random numbers, PATTERN of them again and again: a GPU multiplies equal ones faster than a model's."""
    count = math.prod(sizes)
    pattern = torch.randn(min(count, PATTERN), device=device, dtype=dtype)
    return pattern.repeat(-(-count // PATTERN))[:count].view(sizes)


def _least_kernel_seconds() -> float:
    """Seconds of a kernel with nothing to do, in a sequence that the processor doesn't have to call one by one."""
    tiny = torch.zeros(16, device="cuda")
    count = 400
    tiny.add_(1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            tiny.add_(1)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / count
