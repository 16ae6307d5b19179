"""100,000 rows of a kilobyte, all their tokens counted in the background: how long, how far apart its words on the progress, how soon it stops, and the page meanwhile.

    python -m playground fetch smollm2-135m-instruct && python tests/bench/tokens.py --save tests/bench/results/tokens.json

The page is the real one, asked over HTTP twice a second, alone and while rows are counted by a planner of its own kind beside it.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import psutil
from arms import PROJECT, report, table, write
from data import ROWS, make

from playground.errors import PlaygroundError
from playground.memory.meter import hardware
from playground.planning.client import Planner
from playground.settings import Settings

LIBRARIES = ("torch", "transformers", "tokenizers", "gradio")
LOOKS = 10  # at the page alone
PRESSED = 5.0  # seconds after which Stop is pressed


def count(root: Path, file: Path, stop_after: float = 0) -> dict:
    """Count the file's tokens; after so many seconds, stop."""
    planner, heard, peak, begun = Planner(root), [], [0], time.perf_counter()
    settings = Settings().with_values({"data": {"source": str(file)}, "train": {"max_seq_length": 256}}).to_dict()

    def on_progress(*_) -> None:
        heard.append(time.perf_counter())
        process = planner._lanes["data"].process
        peak[0] = max(peak[0], psutil.Process(process.pid).memory_info().rss)

    if stop_after:
        threading.Timer(stop_after, planner.stop, ("cutoff_cost",)).start()
    try:
        planner.ask(
            "cutoff_cost",
            on_progress,
            settings=settings,
            cutoff=256,
            device="cuda",
            capacity=24 * 2**30,
            card="rtx-4090",
        )
        ended = {}
    except PlaygroundError:
        ended = {"stopped_after_s": round(time.perf_counter() - begun - stop_after, 3)}
    seconds = time.perf_counter() - begun
    planner.close()
    apart = [b - a for a, b in zip(heard, heard[1:])]
    return {
        "seconds": round(seconds, 1),
        "words": len(heard),
        "longest_silence_s": round(max(apart, default=0), 2),
        "peak_mib": round(peak[0] / 2**20),
    } | ended


def looks(url: str, enough) -> list[float]:
    """Seconds of each look at the page, two a second, until it is enough."""
    took = []
    while not enough(took):
        begun = time.perf_counter()
        urllib.request.urlopen(url, timeout=60).read()
        took.append(time.perf_counter() - begun)
        time.sleep(max(0, 0.5 - took[-1]))
    return took


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--rows", type=int, default=ROWS)
    flags.add_argument("--save", type=Path)
    chosen = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        root = Path(folder)
        make(root, chosen.rows)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        url = f"http://127.0.0.1:{port}"
        app = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port), "--runs", str(root / "runs")],
            cwd=PROJECT,
            env=os.environ | {"GRADIO_ANALYTICS_ENABLED": "False"},
        )
        try:
            while True:
                try:
                    urllib.request.urlopen(url, timeout=5)
                    break
                except OSError:
                    time.sleep(0.5)
            time.sleep(20)  # its engine starts
            alone, during, over = looks(url, lambda took: len(took) >= LOOKS), [], threading.Event()
            looking = threading.Thread(target=lambda: during.extend(looks(url, lambda _: over.is_set())))
            looking.start()
            whole = count(root / "a", root / "a.jsonl")
            over.set()
            looking.join()
            stopped = count(root / "b", root / "a.jsonl", PRESSED)
        finally:
            app.terminate()
            app.wait(20)
    page = {
        "page_s": round(statistics.median(alone), 4),
        "page_meanwhile_s": round(statistics.median(during), 4),
        "page_slowest_s": round(max(during), 3),
    }
    rounds = [{"round": 1, "arm": "all counted", **whole, **page}, {"round": 1, "arm": "stopped", **stopped}]
    found = report(
        "tokens of 100,000 rows of 1 kB counted in the background",
        LIBRARIES,
        rounds,
        hardware=hardware("cpu"),
        rows=chosen.rows,
    )
    print(
        table(
            found["medians"],
            dict.fromkeys(("seconds", "words", "longest_silence_s", "stopped_after_s", "peak_mib", *page), "{}"),
        )
    )
    if chosen.save:
        write(chosen.save, found)


if __name__ == "__main__":
    main()
