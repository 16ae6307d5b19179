"""Time the demo's training loop on a quiet and on a busy CPU, by how long OpenMP's threads spin before they sleep.

    python tests/bench/busy_cpu.py                 # three rounds of every arm, on an otherwise idle machine

Arms, each in a new process, interleaved over the rounds (every other round backwards): `as-shipped` is what the program
sets by itself; `spin-N` has GOMP_SPINCOUNT=N, the number of looks that a waiting thread of GNU's OpenMP takes before it
sleeps; `default` lets the library decide (300,000 where there are as many threads as cores); `passive` is
OMP_WAIT_POLICY=PASSIVE (none); `one-thread` has OMP_NUM_THREADS=1.

Each runs the first steps of the preset demo-en by the command line. After QUIET steps as many busy processes as there
are cores are started beside it, and stopped after BUSY more. quiet, busy: trained tokens a second of those steps, all
tokens of the rows, without the first two steps of each part. A fair share of busy cores would be half of quiet.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import arms

QUIET, BUSY = 10, 10  # steps
SKIPPED = 2  # steps at the start of each part
LONGEST_SECONDS = 900
LIBRARIES = ("torch", "transformers", "peft")
SPINS = (100, 1000, 3000, 10000, 30000)
UNSET = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
ARMS: dict[str, dict[str, str]] = {
    "as-shipped": {},
    "default": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"},
    "one-thread": {"OMP_NUM_THREADS": "1"},
} | {f"spin-{count}": {"GOMP_SPINCOUNT": str(count)} for count in SPINS}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bits", type=int, help="instead of the width that this CPU is faster at")
    parser.add_argument("--only", action="append", metavar="ARM", choices=ARMS)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/busy_cpu.json")
    options = parser.parse_args()
    from playground.memory.meter import hardware

    chosen = [name for name in ARMS if not options.only or name in options.only]
    rounds: list[dict] = []
    for number in range(options.rounds):
        for arm in chosen[:: -1 if number % 2 else 1]:
            load = round(os.getloadavg()[0], 2)
            measured = arms.attempt(lambda arm=arm: time_loop(ARMS[arm], options.bits))  # type: ignore[misc]
            rounds.append({"round": number + 1, "arm": arm, "load_average": load} | measured)
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
            report = arms.report("tokens/s on a busy CPU", LIBRARIES, rounds, hardware=hardware("cpu"))
            arms.write(options.out, report)
    print(arms.table(report["medians"], {"quiet": "{:.0f}", "busy": "{:.0f}"}))


def time_loop(environment: dict[str, str], bits: int | None) -> dict[str, Any]:
    """Trained tokens a second of one process, alone and beside busy ones. Raises RuntimeError where it fails."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    width = ["--bits", str(bits)] if bits else []
    steps = str(QUIET + BUSY)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "playground", "tune", "--preset", "demo-en", "--max-steps", steps]
        command += [*width, "--runs", folder]
        process = subprocess.Popen(
            command, cwd=arms.PROJECT, env=kept | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_for_step(Path(folder), QUIET, process)
            with _busy_processes():
                _wait_for_step(Path(folder), QUIET + BUSY, process)
            steps_made = _steps(Path(folder))
        finally:
            process.kill()
            process.wait()
    return {
        "quiet": _tokens_per_s(steps_made[SKIPPED - 1 : QUIET]),
        "busy": _tokens_per_s(steps_made[QUIET + SKIPPED - 1 :]),
    }


@contextmanager
def _busy_processes() -> Iterator[None]:
    """As many processes as there are cores, each counting for ever."""
    count = len(os.sched_getaffinity(0))
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _wait_for_step(runs: Path, number: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + LONGEST_SECONDS
    while len(_steps(runs)) < number:
        if time.monotonic() > end or process.poll():
            raise RuntimeError(f"no step {number} within {LONGEST_SECONDS} s; exit status: {process.poll()}")
        time.sleep(0.05)


def _steps(runs: Path) -> list[dict]:
    """The events "step" of the only run of a folder; `tokens` counts from the beginning."""
    lines = [line for path in runs.glob("*/events.jsonl") for line in path.read_text(encoding="utf-8").splitlines()]
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [event for event in events if event["kind"] == "step"]


def _tokens_per_s(steps: list[dict]) -> float:
    return round((steps[-1]["tokens"] - steps[0]["tokens"]) / (steps[-1]["t"] - steps[0]["t"]), 1)


if __name__ == "__main__":
    main()
