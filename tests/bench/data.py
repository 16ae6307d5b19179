"""Preview, read and slice 100,000 rows of 1 kB: seconds, memory, and how soon reading can be stopped.

    python tests/bench/data.py --save tests/bench/results/data.json

The files are made in a temporary folder: the same rows as JSON Lines, a JSON list, CSV, Parquet and, for the encodings,
CSV in Shift_JIS. Each measurement runs in a separate process, three times over; `seconds` is wall-clock time, `cpu_s`
processor time.
"""

import argparse
import csv
import itertools
import json
import random
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

from arms import attempt, last_line, report, table, write

ROWS, BYTES = 100_000, 1000
WORDS = "the harbour ferry runs every morning and 船は 毎日 出ます。 港の 駅から 歩いて 五分 です。".split()
FILES = ("a.jsonl", "a.json", "a.csv", "a.parquet", "sjis.csv")
JOBS = ("preview", "preview_late", "read", "slice", "stop")
SLICE = {"contains": "ferry", "max_chars": 950, "strip_citations": True, "sample": 5000, "held_out": 0.1}


def make(folder: Path, rows: int) -> None:
    """Write FILES with that many random rows into a folder."""
    import pyarrow
    import pyarrow.parquet

    generator, records = random.Random(0), []
    for number in range(rows):
        question = f"Question {number}: " + " ".join(generator.choices(WORDS, k=20))
        answer = [f"[{number % 9}]"]
        remaining = BYTES - len(question.encode()) - 90
        while remaining > 0:
            answer.append(generator.choice(WORDS))
            remaining -= len(answer[-1].encode()) + 1
        category = generator.choice("abc")
        records.append({"instruction": question, "input": "", "output": " ".join(answer), "category": category})
    (folder / "a.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in records), encoding="utf-8"
    )
    (folder / "a.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    for name, encoding in (("a.csv", "utf-8"), ("sjis.csv", "cp932")):
        with open(folder / name, "w", encoding=encoding, newline="") as file:
            writer = csv.DictWriter(file, records[0])
            writer.writeheader()
            writer.writerows(records)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), folder / "a.parquet")


def measure(path: str, job: str, rows: int) -> dict:
    """Run one job in this process: its seconds, its peak resident memory, and its results.

    `over_bare_mib` is the peak over that of the program before the job.
    """
    from playground.background import Stopped, run_in_background
    from playground.data.source import preview, read
    from playground.settings import Data

    peak_before, begun, cpu = _peak_mib(), time.perf_counter(), time.process_time()
    if job in ("preview", "preview_late"):
        shown = preview(Data(source=path, start_row=rows * 9 // 10 if job == "preview_late" else 1))
        result = {"rows": len(shown.rows)}
    elif job in ("read", "slice"):
        progress_at = [begun]
        selected = read(
            Data(source=path, **(SLICE if job == "slice" else {})), lambda *_: progress_at.append(time.perf_counter())
        )
        result = {
            "rows": len(selected.train) + len(selected.held_out),
            "longest_silence_s": max(b - a for a, b in itertools.pairwise(progress_at)),
        }
    else:
        stop, stopped_at = threading.Event(), []
        threading.Timer(0.5, lambda: (stopped_at.append(time.perf_counter()), stop.set())).start()
        try:
            list(run_in_background(lambda on_progress: read(Data(source=path), on_progress), stop, every=0.02))
            raise RuntimeError("read to the end before it could be stopped")
        except Stopped:
            result = {"stopped_after_s": time.perf_counter() - stopped_at[0]}
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {
        "seconds": seconds,
        "cpu_s": cpu,
        **result,
        "peak_mib": _peak_mib(),
        "over_bare_mib": _peak_mib() - peak_before,
    }


def _peak_mib() -> float:
    """This process's peak resident memory; getrusage would include that of the process which started it."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def main() -> None:
    from playground.memory.meter import hardware

    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--rows", type=int, default=ROWS)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--save", type=Path)
    flags.add_argument("--measure", nargs=2, metavar=("FILE", "JOB"))
    chosen = flags.parse_args()
    if chosen.measure:
        print(json.dumps(measure(*chosen.measure, chosen.rows)))
        return
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), chosen.rows)
        sizes = {name: (Path(folder) / name).stat().st_size for name in FILES}
        for number in range(chosen.rounds):
            for name in FILES:
                for job in JOBS:
                    command = [
                        sys.executable,
                        __file__,
                        "--rows",
                        str(chosen.rows),
                        "--measure",
                        f"{folder}/{name}",
                        job,
                    ]
                    rounds.append(
                        {
                            "round": number,
                            "arm": f"{name} {job}",
                            **attempt(lambda command=command: last_line(command)),
                        }
                    )
    result = report(
        "100,000 rows of 1 kB: looked at, read, sliced, stopped",
        ("datasets", "pyarrow"),
        rounds,
        hardware=hardware("cpu"),
        rows=chosen.rows,
        bytes=sizes,
        slice=SLICE,
    )
    print(
        table(
            result["medians"],
            {
                "seconds": "{:.2f}",
                "cpu_s": "{:.2f}",
                "longest_silence_s": "{:.2f}",
                "stopped_after_s": "{:.2f}",
                "peak_mib": "{:.0f}",
                "over_bare_mib": "{:.0f}",
            },
        )
    )
    if chosen.save:
        write(chosen.save, result)


if __name__ == "__main__":
    main()
