"""Time the list of 5,000 runs: read for the first time, in a later start of the program, and a page of the table.

    python tests/bench/runs_list.py                     # about a minute; needs 500 MB in the temporary folder

The runs are as the engine writes them: settings, memory ten times a second, steps, evaluations, predictions and
measurements; a tenth failed, a tenth were stopped, a tenth has a person's name. Each round begins without an index.
In a new process, its modules loaded: `first_page_s` and `later_page_s`, seconds until the browser gets the first page,
`page_bytes`; `first_s` and `later_s`, until every run is read; `again_s`: `runs.history` once more in that process;
`page_s`: the page once more; `found_s`: a page of a search, sorted by loss.
`no_index_s`: what listing took without an index and with every event parsed, as before.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arms

LIBRARIES = ("gradio",)
MODELS = ("smollm2-135m-instruct", "cyberagent/open-calm-7b", "meta-llama/Llama-2-7b-hf")
GIB = 2**30
BEGAN = 1_790_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/runs_list.json")
    parser.add_argument("--list", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--parse", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list or options.parse:
        print(json.dumps(time_list(options.list) if options.list else time_parsing(options.parse)))
        return
    from playground.memory.meter import hardware
    from playground.runs.index import FILE

    with tempfile.TemporaryDirectory() as folder:
        root, rounds = Path(folder), []
        size = sum(write_run(root, number) for number in range(options.runs))
        for number in range(options.rounds):
            (root / FILE).unlink(missing_ok=True)
            rounds.append({"arm": f"{options.runs} runs", "round": number} | arms.attempt(lambda: time_round(root)))
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
        index = (root / FILE).stat().st_size
    more = {"hardware": hardware("cpu"), "runs": options.runs, "event_bytes": size, "index_bytes": index}
    report = arms.report("seconds to list runs", LIBRARIES, rounds, **more)
    arms.write(options.out, report)
    print(json.dumps(report["medians"], indent=1))


def time_round(root: Path) -> dict[str, Any]:
    """The figures of one round: a start of the program without an index, one with it."""
    command = [sys.executable, __file__]
    parsing = arms.last_line([*command, "--parse", str(root)])
    first, later = (arms.last_line([*command, "--list", str(root)]) for _ in range(2))
    began = {"first_page_s": first["shown"], "first_s": first["seconds"]}
    return {**parsing, **began, "later_page_s": later.pop("shown"), "later_s": later.pop("seconds"), **later}


def time_list(root: Path) -> dict[str, Any]:
    """List the runs in this process, and make pages of the table."""
    from playground import runs
    from playground.runs.query import Query
    from playground.ui.runs_table import table_page, table_value

    engine = SimpleNamespace(run=None, state="ready")
    page: Any = SimpleNamespace(lang="en", root=root, engine=engine)
    results: dict[str, Any] = {}

    def timed(name: str, call: Any) -> Any:
        start = time.perf_counter()
        result = call()
        results[name] = round(time.perf_counter() - start, 3)
        return result

    timed("shown", lambda: table_value(page, ""))
    listed = timed("seconds", lambda: runs.history(root))
    results["seconds"] = round(results["shown"] + results["seconds"], 3)
    timed("again_s", lambda: runs.history(root))
    value = timed("page_s", lambda: table_value(page, ""))
    found = timed("found_s", lambda: table_page(page, "", Query(text="lr 0.0003 help", sort="loss"), {"tunes": 50}))
    return results | {"listed": len(listed), "page_bytes": len(value.encode()), "found": found["tunes"]["count"]}


def time_parsing(root: Path) -> dict[str, float]:
    """Parse every event of every run, as a listing without an index would."""
    from playground.runs.store import Run
    from playground.runs.summary import summarize

    start = time.perf_counter()
    for folder in root.iterdir():
        if (folder / "events.jsonl").is_file():
            summarize(folder.name, Run(folder).events())
    return {"no_index_s": round(time.perf_counter() - start, 2)}


def write_run(root: Path, number: int) -> int:
    """Write a run's folder as the engine would have; returns the size of its events in bytes."""
    from playground import runs
    from playground.settings import SCHEMA, Settings

    drawn = random.Random(number)
    settings = Settings().with_values(
        {
            "load": {"model": MODELS[number % len(MODELS)], "bits": (32, 16, 8, 4)[number % 4]},
            "data": {"source": "helpdesk.ja" if number % 2 else "helpdesk.en"},
            "lora": {"r": drawn.choice((8, 16, 32))},
            "train": {"lr": drawn.choice((1e-3, 3e-4, 1e-4)), "epochs": drawn.choice((1.0, 3.0))},
        }
    )
    began = BEGAN + 120 * number
    folder = root / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(began))}-tune"
    folder.mkdir()
    text = json.dumps({"schema": SCHEMA, **settings.to_dict()}, ensure_ascii=False, indent=1)
    (folder / "settings.json").write_text(text + "\n", encoding="utf-8")
    (folder / "adapter").mkdir()
    events = run_events(settings.to_dict(), began, number, drawn)
    lines = [json.dumps(event, ensure_ascii=False, separators=(",", ":")) for event in events]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.utime(folder / "events.jsonl", (began + 200, began + 200))
    if number % 10 == 0:
        runs.write_label(root, folder.name, f"attempt {number} / “日本語” 🎚️", "higher learning rate")
    return (folder / "events.jsonl").stat().st_size


def run_events(settings: dict, began: int, number: int, drawn: random.Random) -> list[dict]:
    """A fine-tune's events: a tenth of all runs fail in the middle, a tenth are stopped there."""
    seconds, steps, ending = drawn.randint(20, 120), drawn.randint(20, 120), number % 10
    hardware = {"device": "cuda", "name": "NVIDIA H100", "capacity": 80 * GIB}
    parts = {"weights": 4 * GIB, "adapters": GIB // 20, "gradients": GIB // 20, "optimizer": GIB // 10}
    predicted = {"phase": "tune", "parts": {**parts, "activations": GIB, "loss": GIB // 8}, "allocated": 5 * GIB}
    totals = {"reserved": 6 * GIB, "device_used": 7 * GIB + number}
    events: list[dict] = [{"t": 0.0, "kind": "run_started", "schema": 2, "began": began, "job": "tune"}]
    events[0] |= {"settings": settings, "hardware": hardware, "versions": {"torch": "2.11.0"}}
    events.append({"t": 2.0, "kind": "memory_predicted", **predicted, **totals, "need": totals["device_used"]})
    for tick in range(10 * seconds):
        memory = {name: 4 * GIB + drawn.randrange(GIB) for name in ("rss", "allocated", "reserved", "device_used")}
        events.append({"t": round(0.1 * tick, 3), "kind": "memory", **memory})
    for step in range(1, steps + 1):
        figures = {"loss": 3.0 / (1 + 0.02 * step), "lr": 1e-3, "tokens": 900 * step, "tokens_per_s": 4321.0}
        events.append({"t": 3 + (seconds - 4) * step / steps, "kind": "step", "step": step, "total": steps, **figures})
    events.sort(key=lambda event: event["t"])
    events[len(events) // 3 : len(events) // 3] = [
        {
            "t": events[len(events) // 3]["t"],
            "kind": "sample",
            "step": 7,
            "prompt": "What is the password?",
            "text": "…" * 60,
        }
    ]
    if ending == 1:
        values = {"used_bytes": 79 * GIB, "capacity_bytes": 80 * GIB, "part": "activations", "part_bytes": 40 * GIB}
        problems = [{"key": "error.out_of_memory", "values": values}]
        return [*events, {"t": seconds, "kind": "error", "job": "tune", "problems": problems}]
    peak = {"allocated": 5 * GIB, "reserved": 6 * GIB, "device_used": 7 * GIB}
    result = {"loss": {"before": 3.0, "after": drawn.uniform(1, 2)}, "recall": {"base": 0.0, "tuned": drawn.random()}}
    result |= {"stopped": ending == 2, "tokens_per_s": drawn.uniform(2000, 9000), "steps": steps, "peak": peak}
    measured = {"t": seconds, "kind": "memory_measured", "phase": "tune", "parts": parts, "peak": peak}
    return [*events, measured, {"t": seconds, "kind": "done", "job": "tune", "result": result}]


if __name__ == "__main__":
    main()
