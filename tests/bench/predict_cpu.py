"""Predicted main memory beside measured, on this CPU: loading, and the steps of a fine-tune, a fresh process a round.

    python -m playground fetch smollm2-135m-instruct && python tests/bench/predict_cpu.py    # about 5 minutes

An arm is model:bits. Each round runs `python -m playground tune` for a few steps over the demo's rows and reads both figures
from its events; what is measured is the process's resident memory (playground/memory/meter.py), ten times a second: `load` and
`tune` at the peak of that phase, `loaded` once the model is there and what loading left is given back. Errors are signed, in %
of what was measured. A process is ended once its steps are measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import arms  # beside this file

from playground.memory.meter import hardware
from playground.runs import accuracy

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
BITS = (32, 16, 8, 4)
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", action="append", choices=MODELS, help="may be given several times (all that are here)"
    )
    parser.add_argument("--bits", action="append", type=int, choices=BITS, help="may be given several times (all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/predict_cpu.json")
    asked = parser.parse_args()
    found = []
    for n in range(asked.rounds):
        for model in asked.model or MODELS:
            for bits in asked.bits or BITS:
                found.append(
                    {"arm": f"{model}:{bits}", "round": n}
                    | arms.attempt(lambda model=model, bits=bits: measured(model, bits, asked.steps))
                )
                print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    told = arms.report(
        "predicted main memory beside measured", LIBRARIES, found, hardware=hardware("cpu"), steps=asked.steps
    )
    arms.write(asked.out, told)
    print(json.dumps(told["medians"], indent=1))


def measured(model: str, bits: int, steps: int) -> dict:
    """{phase: error, phase_predicted and phase_measured: MiB} of one run's phases."""
    with tempfile.TemporaryDirectory() as root:
        command = [
            sys.executable,
            "-m",
            "playground",
            "tune",
            "--model",
            model,
            "--bits",
            str(bits),
            "--steps",
            str(steps),
            "--device",
            "cpu",
            "--runs",
            root,
        ]
        log = open(Path(root) / "log", "w+", encoding="utf-8")
        process = subprocess.Popen(
            command, cwd=arms.PROJECT, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, stdout=log, stderr=log
        )
        try:
            until = time.time() + arms.LONGEST
            while time.time() < until:
                ended = process.poll() is not None
                pairs = {pair.phase: pair for pair in accuracy.record(Path(root))}
                if ended or "tune" in pairs:
                    break
                time.sleep(0.5)
        finally:
            process.kill()
            process.wait()
        if "tune" not in pairs:
            log.seek(0)
            raise RuntimeError(log.read()[-1500:])
        after = _after(next(Path(root).glob("*/events.jsonl")))
    found = {}
    for phase, predicted, seen in (
        *((phase, pair.predicted, pair.measured) for phase, pair in pairs.items()),
        ("loaded", *after),
    ):
        found |= {
            phase: round(100 * (predicted / seen - 1), 2),
            f"{phase}_predicted": predicted >> 20,
            f"{phase}_measured": seen >> 20,
        }
    return found


def _after(events: Path) -> tuple[int, int]:
    """Bytes once the model is there: predicted, and at the first reading after the load was over."""
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    over = next(n for n, event in enumerate(lines) if event["kind"] == "memory_measured")
    said = next(event["after"] for event in lines if event["kind"] == "memory_predicted" and event["phase"] == "load")
    return said, next(event["rss"] for event in lines[over:] if event["kind"] == "memory")


if __name__ == "__main__":
    main()
