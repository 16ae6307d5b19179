"""Count the tokens of 100,000 rows of 1 kB in the background: seconds, progress, stopping, and the page meanwhile.

    python -m playground fetch smollm2-135m-instruct
    python tests/bench/tokens.py --save tests/bench/results/tokens.json

`words` is the number of progress reports, `longest_silence_s` the longest time between two. The page is the real one,
requested over HTTP twice a second, alone and while another planner counts the rows.
"""

import argparse
import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
from arms import PROJECT, report, table, write
from data import ROWS, make

from playground.errors import PlaygroundError
from playground.memory.meter import hardware
from playground.planning.client import Planner
from playground.settings import Settings

LIBRARIES = ("torch", "transformers", "tokenizers", "gradio")
REQUESTS = 10  # of the page alone
STOP_AFTER = 5.0  # seconds


def count(root: Path, file: Path, stop_after: float = 0) -> dict:
    """Count the file's tokens; with `stop_after`, stop after that many seconds."""
    planner, progress_at, peak, begun = Planner(root), [], [0], time.perf_counter()
    settings = Settings().with_values({"data": {"source": str(file)}, "train": {"max_seq_length": 256}}).to_dict()

    def on_progress(*_) -> None:
        progress_at.append(time.perf_counter())
        peak[0] = max(peak[0], psutil.Process(planner.pid("cutoff_cost")).memory_info().rss)

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
        stopped = {}
    except PlaygroundError:
        stopped = {"stopped_after_s": round(time.perf_counter() - begun - stop_after, 3)}
    seconds = time.perf_counter() - begun
    planner.close()
    pauses = [b - a for a, b in itertools.pairwise(progress_at)]
    return {
        "seconds": round(seconds, 1),
        "words": len(progress_at),
        "longest_silence_s": round(max(pauses, default=0), 2),
        "peak_mib": round(peak[0] / 2**20),
    } | stopped


def request_page(url: str, is_enough: Callable[[list[float]], bool]) -> list[float]:
    """Request the page twice a second until `is_enough`; returns the seconds of each request."""
    took: list[float] = []
    while not is_enough(took):
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
            alone, during, over = request_page(url, lambda took: len(took) >= REQUESTS), [], threading.Event()
            requests = threading.Thread(target=lambda: during.extend(request_page(url, lambda _: over.is_set())))
            requests.start()
            complete = count(root / "a", root / "a.jsonl")
            over.set()
            requests.join()
            stopped = count(root / "b", root / "a.jsonl", STOP_AFTER)
        finally:
            app.terminate()
            app.wait(20)
    page = {
        "page_s": round(statistics.median(alone), 4),
        "page_meanwhile_s": round(statistics.median(during), 4),
        "page_slowest_s": round(max(during), 3),
    }
    rounds = [{"round": 1, "arm": "all counted", **complete, **page}, {"round": 1, "arm": "stopped", **stopped}]
    result = report(
        "tokens of 100,000 rows of 1 kB counted in the background",
        LIBRARIES,
        rounds,
        hardware=hardware("cpu"),
        rows=chosen.rows,
    )
    print(
        table(
            result["medians"],
            dict.fromkeys(("seconds", "words", "longest_silence_s", "stopped_after_s", "peak_mib", *page), "{}"),
        )
    )
    if chosen.save:
        write(chosen.save, result)


if __name__ == "__main__":
    main()
