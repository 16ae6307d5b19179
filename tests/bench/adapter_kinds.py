"""Kinds of adapters and start values on a CPU: the same rows and steps, loss before and after, seconds, memory.

    python -m playground fetch smollm2-135m-instruct && python tests/bench/adapter_kinds.py    # about 10 minutes

An arm is one `python -m playground tune` in a new process: SmolLM2 135M, 20 steps of 4 rows of the demo's help desk,
r 8, alpha 16, all linear layers, learning rate 0.002, seed 0, float32 or as many bits as the arm says. So few steps
tell what a kind costs and whether it learns, not which is best in the end. From the run's events: `before` and `after`,
the loss of 12 held-out rows; `start`, seconds in which start values were computed; `train`, seconds of the steps;
`forgetting`, seconds in which the neutral text was measured before and after; `peak`, resident memory in GiB while
start values and steps were computed, and `predicted`, what was predicted for that.

The result also has, and --start-values prints nothing else: for the shapes of the model's layers and larger ones, the
resident bytes that decomposing a weight takes at its peak (Linux), and what playground/predict/start_values.py has for
it. That is an upper bound: of LAPACK's working memory, some pages are never touched.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arms

from playground.memory.meter import hardware

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
MODEL = "smollm2-135m-instruct"
COMMON = ("--max-steps 20 --batch-size 4 --lr 0.002 --r 8 --alpha 16 --eval-rows 12 --sample-every off").split()
ARMS = {
    "lora": "--bits 32",
    "rslora": "--bits 32 --use-rslora",
    "dora": "--bits 32 --use-dora",
    "miss": "--bits 32 --kind miss",
    "pissa": "--bits 32 --init pissa",
    "pissa, 16 iterations": "--bits 32 --init pissa_niter_16",
    "lora, 4 bits": "--bits 4 --dtype float32",
    "loftq, 4 bits": "--bits 4 --dtype float32 --init loftq",
}
SHAPES = ((576, 576), (192, 576), (1536, 576), (576, 1536), (1024, 4096), (2048, 2048))  # SmolLM2 135M's, and larger

DECOMPOSITIONS = [sys.executable, __file__, "--start-values"]
WHOLE_PAGES = os.environ | {"MALLOC_MMAP_THRESHOLD_": "32768"}  # so that what was freed before is no longer resident


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--only", action="append", choices=ARMS, help="may be given several times (all)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--start-values", action="store_true", help="memory of decompositions instead")
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/adapter_kinds.json")
    options = parser.parse_args()
    if options.start_values:
        print(json.dumps(decompositions()))
        return
    rounds = []
    for n in range(options.rounds):
        for arm in options.only or ARMS:
            rounds.append({"arm": arm, "round": n} | arms.attempt(lambda arm=arm: run_arm(ARMS[arm])))
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    more = {
        "hardware": hardware("cpu"),
        "command": [*COMMON, "--model", MODEL],
        "start_values": arms.last_line(DECOMPOSITIONS, WHOLE_PAGES),
    }
    report = arms.report("kinds of adapters: loss, seconds, memory", LIBRARIES, rounds, **more)
    arms.write(options.out, report)
    print(arms.table(report["medians"], {"before": "{:.3f}", "after": "{:.3f}", "start": "{:.1f}", "train": "{:.1f}"}))
    print(arms.failures(rounds))


def run_arm(flags: str) -> dict:
    """One fine-tune; returns what the module's docstring lists."""
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-m", "playground", "tune", "--model", MODEL, "--device", "cpu", "--runs", root]
        result = arms.last_line([*command, *COMMON, *flags.split()], os.environ | {"CUDA_VISIBLE_DEVICES": ""})
        path = next(Path(root).glob("*/events.jsonl"))
        events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    tuned = {e["kind"]: e for e in events if e.get("phase") == "tune"}
    began = next(e["t"] for e in events if e["kind"] == "phase" and e["name"] == "train")
    steps = [e["t"] for e in events if e["kind"] == "step"]
    return {
        "before": result["loss"]["before"],
        "after": result["loss"]["after"],
        "start": _seconds_of_layers(events),
        "train": round(steps[-1] - began, 2),
        "tokens_per_s": result["tokens_per_s"],
        "forgetting": sum(_seconds_of_forgetting(events)),
        "peak": arms.gib(tuned["memory_measured"]["peak"]["rss"]),
        "predicted": arms.gib(tuned["memory_predicted"]["rss"]),
    }


def _seconds_of_layers(events: list[dict]) -> float:
    """From the event before the first decomposed layer's to the last one's; 0 where none was told."""
    told = [e for e in events if e["kind"] not in ("memory", "step")]
    layers = [n for n, e in enumerate(told) if e["kind"] == "progress" and e.get("unit") == "layers"]
    return round(told[layers[-1]]["t"] - told[layers[0] - 1]["t"], 2) if layers else 0.0


def _seconds_of_forgetting(events: list[dict]) -> list[float]:
    """Seconds before and after training: from the event that opens the measurement to the one with its result."""
    told = [e for e in events if e["kind"] not in ("memory", "progress")]
    ends = [n for n, e in enumerate(told) if e["kind"] == "eval" and e.get("when") == "forgetting"]
    return [round(told[n]["t"] - told[n - 1]["t"], 2) for n in ends]


def decompositions() -> list[dict]:
    """For each shape and kind of start values, the bytes at the peak, measured and predicted."""
    import torch

    from playground.predict.start_values import randomized_svd_bytes, svd_bytes

    found = []
    for outputs, inputs in SHAPES:
        weight = torch.randn(outputs, inputs)
        full = _peak_of(lambda weight=weight: torch.linalg.svd(weight, full_matrices=False))
        found.append({"shape": [outputs, inputs], "of": "svd", **_compared(full, svd_bytes(inputs, outputs))})
        for r in (8, 64):
            fast = _peak_of(lambda weight=weight, r=r: torch.svd_lowrank(weight, r, niter=16))
            compared = _compared(fast, randomized_svd_bytes(inputs, outputs, r))
            found.append({"shape": [outputs, inputs], "of": f"svd_lowrank, r {r}", **compared})
    return found


def _compared(measured: int, predicted: int) -> dict:
    return {"measured": measured, "predicted": predicted}


def _peak_of(compute: Callable[[], Any]) -> int:
    """The resident bytes that a call takes at its peak beyond those before it; called once before, for its kernels."""
    compute()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    compute()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
