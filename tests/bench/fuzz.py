"""Send malformed calls to every route of a served page; count the answers by endpoint and status.

    python tests/bench/fuzz.py --calls 20000 --save tests/bench/results/fuzz.json

No call may stay without an answer, get a status from 500 on (but 503, a full queue), or show or log a traceback; the
page's memory may grow by the sessions that Gradio keeps (256 of 1.1 MiB) and no more. The calls are made in
tests/fuzz_calls.py, from a seed.
"""

import argparse
import itertools
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
from arms import report, write
from fuzz_calls import Calls, run
from served_app import ServedApp

from playground.memory.meter import hardware

ROUND = 2000  # calls between two looks at the page's memory


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--calls", type=int, default=20_000)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--save", type=Path)
    chosen = flags.parse_args()
    begun = time.perf_counter()
    counts: Counter[tuple[str, int]] = Counter()
    wrong, sizes = [], []
    with tempfile.TemporaryDirectory() as folder:
        app = ServedApp(Path(folder), _environment(Path(folder)))
        app.wait_until_served()
        try:
            config = httpx.get(app.url + "/config", timeout=60).json()
            calls = Calls(config, chosen.seed).take(chosen.calls)
            while part := list(itertools.islice(calls, ROUND)):
                outcome = run(app.url, iter(part))
                counts.update({(name, status): n for name, by in outcome.counts.items() for status, n in by.items()})
                wrong += outcome.wrong
                sizes.append(psutil.Process(app.process.pid).memory_info().rss)
                print(sum(counts.values()), "calls,", len(wrong), "wrong,", sizes[-1] // 2**20, "MiB", flush=True)
            assert httpx.get(app.url, timeout=60).status_code == 200
        finally:
            app.close()
        log = (Path(folder) / "app.log").read_text(encoding="utf-8", errors="replace")
    for call, status, text in wrong[:20]:
        print("wrong:", call.endpoint, call.method, call.path[:100], call.body[:200], status, text[:200])
    _report(chosen, counts, wrong, sizes, log.count("Traceback"), time.perf_counter() - begun)


def _report(chosen: argparse.Namespace, counts: Counter, wrong: list, sizes: list, logged: int, seconds: float) -> None:
    """Print and save the result."""
    endpoints = sorted({name for name, _ in counts})
    rounds = [
        {
            "round": 0,
            "arm": name,
            "calls": sum(n for (other, _), n in counts.items() if other == name),
            **{f"status_{status}": n for (other, status), n in sorted(counts.items()) if other == name},
        }
        for name in endpoints
    ]
    result = report(
        "malformed calls",
        ("gradio", "fastapi", "starlette", "uvicorn"),
        rounds,
        hardware=hardware("cpu"),
        calls=sum(counts.values()),
        wrong=len(wrong),
        tracebacks_logged=logged,
        seed=chosen.seed,
        seconds=round(seconds, 1),
        page_bytes=sizes,
    )
    print(
        result["calls"], "calls,", result["wrong"], "wrong,", logged, "tracebacks in the log,", result["seconds"], "s"
    )
    if chosen.save:
        write(chosen.save, result)


def _environment(folder: Path) -> dict[str, str]:
    """No network, and no cache of the user's."""
    return {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"),
        "PLAYGROUND_CACHE": str(folder / "cache"),
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }


if __name__ == "__main__":
    main()
