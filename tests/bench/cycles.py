"""The same work many times in one engine: what stays of it in memory, threads, handles, processes and temporary files.

    python tests/bench/cycles.py --cycles 500

A cycle loads a toy model at 4, 8 or 16 bits in turn, fine-tunes it for two steps, has base and adapter answer a
question, unloads it, and deletes the run. Every `--every` cycles both processes are looked at, the one that owns the
engine (as the page's does) and the engine. The toy takes 2 MB at most, so that a megabyte a cycle would show at once.
`growth` is the last look minus the first one after a tenth of the cycles, when every width has been used.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import arms
import psutil

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
WIDTHS = (4, 8, 16)
QUESTION: dict[str, list[dict]] = {side: [{"instruction": "What?", "answer": None}] for side in ("base", "tuned")}
WAIT = 300.0  # seconds at most, for a job
MIB = 2**20


def look(number: int, engine_pid: int, temporary: Path) -> dict[str, Any]:
    """What both processes hold now."""
    gc.collect()
    seen: dict[str, Any] = {"arm": "cycles", "round": number}
    for name, process in (("owner", psutil.Process()), ("engine", psutil.Process(engine_pid))):
        memory = process.memory_full_info()
        seen |= {
            f"{name}_mib": round(memory.uss / MIB, 1),
            f"{name}_threads": process.num_threads(),
            f"{name}_handles": process.num_fds(),
            f"{name}_children": len(process.children(recursive=True)),
        }
    shared = Path("/dev/shm")
    seen["temporary_files"] = sum(1 for _ in temporary.rglob("*"))
    seen["shared_memory_files"] = sum(1 for _ in shared.iterdir()) if shared.is_dir() else 0
    return seen


def cycle(engine: Any, root: Path, settings: Any) -> None:
    """Load, fine-tune, answer, unload and delete once. Raises RuntimeError if a job fails."""
    from playground import runs
    from playground.settings import Generation

    def ended(job: Any) -> Any:
        if not job.wait(WAIT) or job.error:
            raise RuntimeError(str(job.error or "a job did not end"))
        return job

    ended(engine.load(settings))
    run = ended(engine.tune(settings)).run
    ended(engine.chat(settings, run, QUESTION, Generation(max_new_tokens=4)))
    engine.unload()
    until = time.monotonic() + WAIT
    while engine.loaded:
        if time.monotonic() > until:
            raise RuntimeError("the model stayed loaded")
        time.sleep(0.005)
    for found in runs.history(root):
        runs.delete(root, found.id)
    runs.empty_trash(root)


def measure(folder: Path, cycles: int, every: int) -> list[dict[str, Any]]:
    import toys

    from playground.engine.client import Engine
    from playground.settings import Settings

    root = folder / "runs"
    model = toys.save(folder / "model", chat=True)
    train = {"max_steps": 2, "batch_size": 2, "max_seq_length": 64, "sample_every": "off", "eval_rows": 0}
    train |= {"measure_forgetting": False}
    settings = Settings().with_values(
        {"load": {"model": str(model), "device": "cpu"}, "data": {"source": "helpdesk.en"}, "train": train}
    )
    looks: list[dict[str, Any]] = []
    engine = Engine(root)
    engine.start()
    try:
        for number in range(1, cycles + 1):
            cycle(engine, root, settings.with_values({"load": {"bits": WIDTHS[number % len(WIDTHS)]}}))
            if number == 1 or number % every == 0:
                looks.append(look(number, engine.pid or 0, folder / "tmp"))
                print(looks[-1], file=sys.stderr, flush=True)
    finally:
        engine.close()
    return looks


def growth(looks: list[dict[str, Any]], cycles: int) -> dict[str, float]:
    """By what each figure is larger at the end than after a tenth of the cycles."""
    first = next(seen for seen in looks if seen["round"] >= cycles // 10)
    return {name: round(looks[-1][name] - value, 1) for name, value in first.items() if name not in ("arm", "round")}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--cycles", type=int, default=500)
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/cycles.json")
    options = parser.parse_args()
    from playground.memory.meter import hardware

    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "tmp"
        own.mkdir()
        os.environ |= {"TMPDIR": str(own), "HF_HUB_OFFLINE": "1", "PLAYGROUND_CACHE": str(Path(folder) / "cache")}
        tempfile.tempdir = str(own)
        began = time.monotonic()
        looks = measure(Path(folder), options.cycles, options.every)
    facts = {
        "hardware": hardware("cpu"), "cycles": options.cycles, "growth": growth(looks, options.cycles),
        "seconds": round(time.monotonic() - began), "load_after": os.getloadavg()[0],
    }  # fmt: skip
    arms.write(options.out, arms.report("cycles of load, tune, chat, unload", LIBRARIES, looks, **facts))


if __name__ == "__main__":
    main()
