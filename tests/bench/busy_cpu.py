"""Time the demo's training loop on a quiet and on a busy CPU, by how long OpenMP's threads spin before they sleep.

    python tests/bench/busy_cpu.py                 # nine steps of every arm, on an otherwise idle machine

Arms: `as-shipped` is what the program sets by itself; `spin-N` has GOMP_SPINCOUNT=N, the number of looks that a waiting
thread of GNU's OpenMP takes before it sleeps; `default` is what the library decides (300,000 where there are as many
threads as cores); `passive` is OMP_WAIT_POLICY=PASSIVE (none); `one-thread` has OMP_NUM_THREADS=1.

Each arm is a separate process that trains the preset demo-en and waits before every step until it is asked for one.
Arms take turns step by step, every other round backwards: first all quiet steps, then as many beside as many busy
processes as there are cores, which run during a step alone. quiet, busy: all tokens of the step's rows a second, the
median of the steps; busy_least: the slowest step's. others: cores that other processes used meanwhile, the busy ones
included. A fair share of busy cores would be half of quiet.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import arms
import psutil

STARTING_SECONDS = 0.3  # of the busy processes
LIBRARIES = ("torch", "transformers", "peft")
UNSET = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
ARMS: dict[str, dict[str, str]] = {
    "as-shipped": {},
    "default": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"},
    "one-thread": {"OMP_NUM_THREADS": "1"},
} | {f"spin-{count}": {"GOMP_SPINCOUNT": str(count)} for count in (1000, 3000, 5000, 10000, 20000, 30000)}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="steps of every arm, quiet and busy each")
    parser.add_argument("--bits", type=int, help="instead of the width that this CPU is faster at")
    parser.add_argument("--only", action="append", metavar="ARM", choices=ARMS)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/busy_cpu.json")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.bits, 2 * options.rounds + 3)
        return
    from playground.memory.meter import hardware

    chosen = [name for name in ARMS if not options.only or name in options.only]
    steps = measure(chosen, options)
    report = arms.report("tokens/s on a busy CPU", LIBRARIES, [], hardware=hardware("cpu"), bits=options.bits)
    report |= {"arms": {name: summary(steps, name) for name in chosen}, "steps": steps}
    arms.write(options.out, report)
    for name, row in report["arms"].items():
        print(f"{name:12}" + "".join(f"  {what} {value}" for what, value in row.items()))


def measure(chosen: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every arm's steps, in turns."""
    workers = {name: start(name, options) for name in chosen}
    steps: list[dict[str, Any]] = []
    try:
        for name in chosen:
            make_step(workers[name])  # the first one builds what the others use
        for part in ("quiet", "busy"):
            for number in range(options.rounds):
                for name in chosen[:: -1 if number % 2 else 1]:
                    with busy_processes() if part == "busy" else nullcontext():
                        made = make_step(workers[name])
                    steps.append({"part": part, "round": number + 1, "arm": name} | made)
                    print(json.dumps(steps[-1]), file=sys.stderr, flush=True)
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    return steps


def summary(steps: list[dict], name: str) -> dict[str, float]:
    """Medians of an arm's steps, in tokens a second, and of the cores that others used."""
    rates = {
        part: [one["tokens"] / one["seconds"] for one in steps if (one["part"], one["arm"]) == (part, name)]
        for part in ("quiet", "busy")
    }
    others = [one["others"] for one in steps if (one["part"], one["arm"]) == ("quiet", name)]
    return {part: round(statistics.median(of), 1) for part, of in rates.items()} | {
        "busy_least": round(min(rates["busy"]), 1),
        "others_while_quiet": round(statistics.median(others), 2),
    }


def start(name: str, options: argparse.Namespace) -> subprocess.Popen:
    """An arm's process, when it is ready for its first step."""
    kept = {key: value for key, value in os.environ.items() if key not in UNSET}
    command = [sys.executable, __file__, "--worker", "--rounds", str(options.rounds)]
    command += ["--bits", str(options.bits)] if options.bits else []
    worker = subprocess.Popen(
        command,
        env=kept | ARMS[name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    _answer(worker)
    return worker


def make_step(worker: subprocess.Popen) -> dict[str, float]:
    """Have one step made; {"tokens", "seconds", "others"}."""
    began, before = time.perf_counter(), _busy_seconds()
    assert worker.stdin
    print("step", file=worker.stdin, flush=True)
    made = _answer(worker)
    others = (_busy_seconds() - before - made.pop("own")) / (time.perf_counter() - began)
    return made | {"others": round(others, 2)}


def _answer(worker: subprocess.Popen) -> dict:
    assert worker.stdout
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"an arm's process has ended: {worker.wait()}")
    return json.loads(line)


def _busy_seconds() -> float:
    """Seconds that all cores have worked since the machine started."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


@contextmanager
def busy_processes() -> Iterator[None]:
    """As many processes as there are cores, each counting for ever."""
    count = len(os.sched_getaffinity(0))
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(STARTING_SECONDS)
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def work(bits: int | None, steps: int) -> None:
    """Train the demo, one step for every line of standard input; answers are lines of JSON."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from playground import catalog
    from playground.engine.workbench import Workbench
    from playground.settings import Settings

    values = {"train": {"max_steps": steps}} | ({"load": {"bits": bits}} if bits else {})
    settings = Settings().with_values(catalog.presets()["demo-en"]["settings"]).with_values(values)
    with tempfile.TemporaryDirectory() as folder:
        workbench = Workbench(Path(folder), threading.Event())
        tokens, began, own = 0, 0.0, 0.0
        for event in workbench.tune(settings):
            if event["kind"] != "step":
                continue
            seconds = {"seconds": time.perf_counter() - began, "own": time.process_time() - own}
            print(json.dumps({"tokens": event["tokens"] - tokens} | seconds), file=answers)
            tokens = event["tokens"]
            if not sys.stdin.readline():
                return
            began, own = time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()
