"""Compare predicted with measured main memory on this CPU: loading, and the steps of a fine-tune.

    python -m playground fetch smollm2-135m-instruct && python tests/bench/predict_cpu.py    # about 5 minutes

An arm is model:bits. Each round runs `python -m playground tune` in a new process for a few steps over the demo's
rows and reads both figures from its events. Measured is the process's resident memory (playground/memory/meter.py),
ten times a second: `load` and `tune` at the peak of that phase, `loaded` once the model is loaded and loading's
temporaries are released. Errors are signed, in % of the measurement. A process is ended once its steps are measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import arms

from playground.memory.meter import hardware
from playground.runs import accuracy

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
BITS = (32, 16, 8, 4)
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--model", action="append", choices=MODELS, help="may be given several times (all)")
    parser.add_argument("--bits", action="append", type=int, choices=BITS, help="may be given several times (all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/predict_cpu.json")
    options = parser.parse_args()
    rounds = []
    for n in range(options.rounds):
        for model in options.model or MODELS:
            for bits in options.bits or BITS:
                rounds.append(
                    {"arm": f"{model}:{bits}", "round": n}
                    | arms.attempt(lambda model=model, bits=bits: run_arm(model, bits, options.steps))
                )
                print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    report = arms.report(
        "predicted and measured main memory", LIBRARIES, rounds, hardware=hardware("cpu"), steps=options.steps
    )
    arms.write(options.out, report)
    print(json.dumps(report["medians"], indent=1))


def run_arm(model: str, bits: int, steps: int) -> dict:
    """Run one fine-tune; returns {phase: error in %, phase_predicted and phase_measured: MiB}."""
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
            "--max-steps",
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
            until = time.time() + arms.MAX_ARM_SECONDS
            while time.time() < until:
                ended = process.poll() is not None
                pairs = {pair.phase: pair for pair in accuracy.all_totals(Path(root))}
                if ended or "tune" in pairs:
                    break
                time.sleep(0.5)
        finally:
            process.kill()
            process.wait()
        if "tune" not in pairs:
            log.seek(0)
            raise RuntimeError(log.read()[-1500:])
        loaded = _loaded_bytes(next(Path(root).glob("*/events.jsonl")))
    result = {}
    phases = [(phase, pair.predicted, pair.measured) for phase, pair in pairs.items()]
    for phase, predicted, measured in (*phases, ("loaded", *loaded)):
        result |= {
            phase: round(100 * (predicted / measured - 1), 2),
            f"{phase}_predicted": predicted >> 20,
            f"{phase}_measured": measured >> 20,
        }
    return result


def _loaded_bytes(path: Path) -> tuple[int, int]:
    """Bytes once the model is loaded: predicted, and at the first reading after loading ended."""
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    end = next(n for n, e in enumerate(events) if e["kind"] == "memory_measured")
    predicted = next(e["after"] for e in events if e["kind"] == "memory_predicted" and e["phase"] == "load")
    return predicted, next(e["rss"] for e in events[end:] if e["kind"] == "memory")


if __name__ == "__main__":
    main()
