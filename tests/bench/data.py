"""100,000 rows of a kilobyte each: how soon they can be looked at, read and sliced, in how much memory, and how soon reading stops.

    python tests/bench/data.py --save tests/bench/results/data.json

Files are made in a temporary folder: the same rows as JSON Lines, a JSON list, CSV, Parquet and, for the encodings, CSV in Shift_JIS. Each
measure is taken in a process of its own, three times over; seconds are of the clock and, as `cpu_s`, of the processor.
"""

import argparse
import csv
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
WHAT = ("preview", "preview_late", "read", "slice", "stop")
SLICE = {"contains": "ferry", "longest": 950, "strip_citations": True, "sample": 5000, "held_out": 0.1}


def make(folder: Path, rows: int) -> None:
    import pyarrow
    import pyarrow.parquet

    draw, made = random.Random(0), []
    for number in range(rows):
        asked = f"Question {number}: " + " ".join(draw.choices(WORDS, k=20))
        said = [f"[{number % 9}]"]
        left = BYTES - len(asked.encode()) - 90
        while left > 0:
            said.append(draw.choice(WORDS))
            left -= len(said[-1].encode()) + 1
        made.append({"instruction": asked, "input": "", "output": " ".join(said), "category": draw.choice("abc")})
    (folder / "a.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), encoding="utf-8"
    )
    (folder / "a.json").write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
    for name, encoding in (("a.csv", "utf-8"), ("sjis.csv", "cp932")):
        with open(folder / name, "w", encoding=encoding, newline="") as file:
            writer = csv.DictWriter(file, made[0])
            writer.writeheader()
            writer.writerows(made)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), folder / "a.parquet")


def measure(path: str, what: str, rows: int) -> dict:
    """One measure in this process: seconds, peak resident memory over that of the bare program, and what came of it."""
    from playground.background import Stopped, run_in_background
    from playground.data.source import preview, read
    from playground.settings import Data

    bare, begun, cpu = _peak(), time.perf_counter(), time.process_time()
    if what in ("preview", "preview_late"):
        seen = preview(Data(source=path, start_row=rows * 9 // 10 if what == "preview_late" else 1))
        found = {"rows": len(seen.rows)}
    elif what in ("read", "slice"):
        heard = [begun]
        got = read(
            Data(source=path, **(SLICE if what == "slice" else {})), lambda *_: heard.append(time.perf_counter())
        )
        found = {
            "rows": len(got.train) + len(got.held_out),
            "longest_silence_s": max(b - a for a, b in zip(heard, heard[1:])),
        }
    else:
        stop, pressed = threading.Event(), []
        threading.Timer(0.5, lambda: (pressed.append(time.perf_counter()), stop.set())).start()
        try:
            list(run_in_background(lambda on_progress: read(Data(source=path), on_progress), stop, every=0.02))
            raise RuntimeError("read to the end before it could be stopped")
        except Stopped:
            found = {"stopped_after_s": time.perf_counter() - pressed[0]}
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {"seconds": seconds, "cpu_s": cpu, **found, "peak_mib": _peak(), "over_bare_mib": _peak() - bare}


def _peak() -> float:
    """MiB of this program at its peak; getrusage's is also that of the process which started it."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def main() -> None:
    from playground.memory.meter import hardware

    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--rows", type=int, default=ROWS)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--save", type=Path)
    flags.add_argument("--measure", nargs=2, metavar=("FILE", "WHAT"))
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
                for what in WHAT:
                    command = [
                        sys.executable,
                        __file__,
                        "--rows",
                        str(chosen.rows),
                        "--measure",
                        f"{folder}/{name}",
                        what,
                    ]
                    rounds.append(
                        {
                            "round": number,
                            "arm": f"{name} {what}",
                            **attempt(lambda command=command: last_line(command)),
                        }
                    )
    found = report(
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
            found["medians"],
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
        write(chosen.save, found)


if __name__ == "__main__":
    main()
