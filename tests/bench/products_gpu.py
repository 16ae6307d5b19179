"""Time one frozen layer's product on one GPU by the type it is multiplied in, at 7B shapes.

    python tests/bench/products_gpu.py            # one GPU with float8 products; about 2 minutes

5,024 rows (a step of tests/bench/train_gpu.py), random numbers, milliseconds, the median of what half a second allows.
Weights are rotated, so that none is read from the L2 cache. Everything that a layer needs each time is counted:
  bf16            torch's product in bfloat16
  fp8             quantizing the rows in one kernel, and torch's product with a scale a row; backward: the transpose too
  int8-fast       the same with int8 and a product in Triton with its scales and the bias inside
  int8-library    torch's int8 product into int32, and its scales in a second kernel
  nf4             the 4-bit weight made dense in bfloat16 by bitsandbytes, and a product in bfloat16
  nf4-fast        the 4-bit weight made dense in float8 in one kernel (transposed for backward), and a float8 product
  quantize-*, transpose, dense-*, tiles-*: those kernels alone; tiles-ROWS-COLUMNS-SUMMED-WARPS-STAGES: the integer
                  product
error-*: of the product against the one of float32 numbers that the weight stands for, as a share of its norm.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import arms

ROWS = 5024
SHAPES = [(4096, 12288, False), (4096, 4096, False), (4096, 16384, False), (16384, 4096, False), (4096, 16384, True)]
LIBRARIES = ("torch", "triton", "bitsandbytes")
COPIES = 4  # of a weight


def main() -> None:
    import torch

    from playground.memory.meter import hardware

    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/products_gpu.json")
    options = parser.parse_args()
    rounds = []
    for width, out, backward in SHAPES:
        name = f"{'gradient ' if backward else ''}{width} → {out}"
        rounds.append({"round": 1, "arm": name} | arms.attempt(partial(measure, width, out, backward)))
        print(json.dumps(rounds[-1], ensure_ascii=False), file=sys.stderr, flush=True)
        torch.cuda.empty_cache()
    report = arms.report("products of one layer", LIBRARIES, rounds, hardware=hardware("cuda"), rows=ROWS)
    arms.write(options.out, report)
    columns = {key: "{:.3f}" for r in rounds for key in r if key not in ("round", "arm", "failed")}
    print(f"\n{report['hardware']['name']}\n\n{arms.table(report['medians'], columns)}\n{arms.failures(rounds)}")
    sys.exit(any("failed" in r for r in rounds))


def measure(width: int, out: int, backward: bool) -> dict[str, float]:
    """Milliseconds of every kind of product of x (ROWS, width) with a weight (out, width), or of its gradient."""
    import torch

    torch.manual_seed(0)
    weights = [torch.randn(out, width, device="cuda", dtype=torch.bfloat16) * 0.02 for _ in range(COPIES)]
    x = torch.randn(ROWS, out if backward else width, device="cuda", dtype=torch.bfloat16)
    kinds = products(weights, backward) | parts(weights, x)
    results = {}
    for name, product in kinds.items():
        try:
            results[name] = _milliseconds(product, x)
            if not name.startswith(("quantize", "transpose", "dense", "tiles")):
                results[f"error-{name}"] = _error(product(x, 0), x, weights[0], backward)
        except Exception as error:
            print(f"{name}: {str(error)[:800]}", file=sys.stderr)
    return results


def products(weights: list[Any], backward: bool) -> dict[str, Callable[[Any, int], Any]]:
    """Each kind's function of the rows and the number of a weight."""
    import torch

    from playground.model import float8, int8_kernels
    from playground.train import quantized_ops

    fp8 = [float8.quantize_rows(weight) for weight in weights]
    int8 = [int8_kernels.quantize_tokens(weight, None) for weight in weights]
    nf4, fast = ([packed_weight(weight, kind) for weight in weights] for kind in ("nf4", "nf4-fast"))
    run = quantized_ops.frozen_linear_backward if backward else (lambda w, x: quantized_ops.frozen_linear(w, x, None))
    ones = torch.ones(weights[0].shape[1], device="cuda")
    scale = torch.compile(lambda sums, down, across: (sums * down[:, None] * across).to(torch.bfloat16), dynamic=False)

    def in_library(x: Any, n: int) -> Any:
        codes, scales = int8[n]
        rows, row_scales = int8_kernels.quantize_tokens(x, scales if backward else None)
        codes, scales = (float8.transposed(codes), ones) if backward else (codes, scales)
        return scale(torch._int_mm(rows, codes.T), row_scales, scales)

    return {
        "bf16": lambda x, n: x @ weights[n] if backward else x @ weights[n].T,
        "fp8": lambda x, n: run(_weight(*fp8[n], "fp8"), x),
        "int8-fast": lambda x, n: run(_weight(*int8[n], "int8-fast"), x),
        "int8-library": in_library,
        "nf4": lambda x, n: run(nf4[n], x),
        "nf4-fast": lambda x, n: run(fast[n], x),
    }


def parts(weights: list[Any], x: Any) -> dict[str, Callable[[Any, int], Any]]:
    """Kernels that a product needs before it."""
    from playground.model import float8, float8_kernels, int8_kernels
    from playground.train import quantized_ops

    codes = [float8.quantize_rows(weight)[0] for weight in weights]
    nf4, fast = ([packed_weight(weight, kind) for weight in weights] for kind in ("nf4", "nf4-fast"))
    return {
        "quantize-fp8": lambda x, n: float8_kernels.quantize_tokens(x, None),
        "quantize-int8": lambda x, n: int8_kernels.quantize_tokens(x, None),
        "transpose": lambda x, n: float8_kernels.transpose(codes[n]),
        "dense-bf16": lambda x, n: quantized_ops.dequantize(nf4[n], x.dtype),
        "dense-fp8": lambda x, n: quantized_ops.dense_float8(fast[n], False),
        "dense-fp8-transposed": lambda x, n: quantized_ops.dense_float8(fast[n], True),
        **tiles(x),
    }


def tiles(x: Any) -> dict[str, Callable[[Any, int], Any]]:
    """The integer product alone (x times a weight of 4,096 rows) in tiles of several sizes."""
    import torch

    from playground.model import int8_kernels

    a, a_scales = int8_kernels.quantize_tokens(x, None)
    b, b_scales = int8_kernels.quantize_tokens(torch.randn(4096, x.shape[1], device="cuda"), None)
    sizes = [int8_kernels.SMALL_TILES, *int8_kernels.TILES.values(), (128, 128, 128, 8, 4), (256, 128, 128, 8, 3)]
    sizes += [(128, 256, 128, 8, 3), (128, 256, 128, 8, 4), (128, 256, 64, 8, 4), (64, 256, 128, 4, 4)]

    def multiply(size: Any, x: Any, n: int) -> Any:
        return int8_kernels.multiply(a, b, a_scales, b_scales, None, torch.bfloat16, size)

    return {"tiles-" + "-".join(map(str, size)): partial(multiply, size) for size in sizes}


def packed_weight(weight: Any, kind: str) -> Any:
    """The weight quantized twice by bitsandbytes, as the training code has it."""
    from bitsandbytes import nn as bnb

    from playground.model.nf4_fast import prepare
    from playground.train.linear import frozen_weight

    layer = bnb.Linear4bit(weight.shape[1], weight.shape[0], bias=False, quant_type="nf4", device="meta")
    layer.weight = bnb.Params4bit(weight, quant_type="nf4", compress_statistics=True, module=layer).to("cuda")
    if kind == "nf4-fast":
        prepare(layer)
    return frozen_weight(layer)


def _weight(codes: Any, scales: Any, kind: str) -> Any:
    from playground.train.quantized_ops import FrozenWeight

    return FrozenWeight(codes, kind, [scales], 0, 0, *codes.shape)


def _milliseconds(product: Callable[[Any, int], Any], x: Any) -> float:
    from triton.testing import do_bench

    calls = 0

    def next_weight() -> None:
        nonlocal calls
        calls += 1
        product(x, calls % COPIES)

    return round(do_bench(next_weight, warmup=100, rep=400, return_mode="median"), 4)


def _error(product: Any, x: Any, weight: Any, backward: bool) -> float:
    weight = weight.float()
    exact = x.float() @ (weight if backward else weight.T)
    return round(((product.float() - exact).norm() / exact.norm()).item(), 5)


if __name__ == "__main__":
    main()
