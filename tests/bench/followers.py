"""Followers of one live run: how long their polls take, what the page's process uses, and what training loses by them.

    python tests/bench/followers.py --followers 200 --seconds 60

Starts the page, fine-tunes a toy, and has so many followers poll as browsers do: at once, then when the reply says.
Training's speed is read from the run's events in three windows, without followers, with them, and without again, so
that a machine that is busy with other things shows. The followers run on the same cores: `followers_cpu` is what they
use themselves, as shares of a core, `page_cpu` and `engine_cpu` the page's and the engine's.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import arms
import httpx
import psutil

sys.path.insert(0, str(arms.PROJECT / "tests"))
import toys
from gradio_client import Client
from served_app import ServedApp

LIBRARIES = ("gradio", "starlette", "uvicorn", "torch")
QUIET_SECONDS = 20.0
STEPS = 100_000  # more than the windows have time for


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--followers", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/followers.json")
    options = parser.parse_args()
    from playground.memory.meter import hardware

    with tempfile.TemporaryDirectory() as folder:
        rounds = measure(Path(folder), options.followers, options.seconds)
    load = os.getloadavg()
    report = arms.report(
        "followers of a live run", LIBRARIES, rounds, hardware=hardware("cpu"), cores=os.cpu_count(), load_after=load
    )
    arms.write(options.out, report)
    print(json.dumps(report["medians"], indent=1))


def measure(folder: Path, counts: list[int], seconds: float) -> list[dict[str, Any]]:
    """One round for each number of followers, all during one fine-tune."""
    model = toys.save(folder / "model", hidden_size=256, intermediate_size=512, num_hidden_layers=4)
    app = ServedApp(folder, {"HF_HUB_OFFLINE": "1"})
    try:
        app.wait_until_served()
        client = Client(app.url, verbose=False)
        train = {"max_steps": STEPS, "batch_size": 8, "max_seq_length": 128, "sample_every": "off", "eval_rows": 0}
        train |= {"measure_forgetting": False}
        settings = {"load": {"model": str(model), "bits": 32, "device": "cpu"}, "data": {"source": "helpdesk.en"}}
        run = client.predict(settings | {"train": train}, api_name="/tune")["id"]
        events = app.runs / run / "events.jsonl"
        while not _steps(events):
            time.sleep(0.5)
        rounds = []
        for count in counts:
            rounds.append({"arm": f"{count} followers", "round": 0} | _round(app, events, count, seconds))
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
        client.predict(run, api_name="/stop")
        return rounds
    finally:
        app.close()


def _round(app: ServedApp, events: Path, count: int, seconds: float) -> dict[str, Any]:
    page = psutil.Process(app.process.pid)
    engine = max(page.children(), key=lambda child: child.memory_info().rss)
    windows = [_window(events, page, engine, lambda: time.sleep(QUIET_SECONDS))]
    taken: list[float] = []
    failed: list[str] = []
    own = time.process_time()
    windows.append(_window(events, page, engine, lambda: asyncio.run(_follow(app.url, count, seconds, taken, failed))))
    own = time.process_time() - own
    windows.append(_window(events, page, engine, lambda: time.sleep(QUIET_SECONDS)))
    before, during, after = windows
    quiet = (before["tokens_per_s"] + after["tokens_per_s"]) / 2
    taken.sort()
    return {
        "polls": len(taken),
        "failed_polls": len(failed),
        "polls_a_second": len(taken) / during["seconds"],
        "p50_s": statistics.median(taken),
        "p99_s": taken[int(0.99 * len(taken))],
        "longest_s": taken[-1],
        "page_cpu": during["page_cpu"],
        "page_cpu_without": (before["page_cpu"] + after["page_cpu"]) / 2,
        "engine_cpu": during["engine_cpu"],
        "followers_cpu": own / during["seconds"],
        "tokens_per_s_before": before["tokens_per_s"],
        "tokens_per_s": during["tokens_per_s"],
        "tokens_per_s_after": after["tokens_per_s"],
        "slower": 1 - during["tokens_per_s"] / quiet,
        "load": os.getloadavg()[0],
    }


def _window(events: Path, page: psutil.Process, engine: psutil.Process, wait: Any) -> dict[str, float]:
    """What training did and both processes used while `wait()` ran: tokens a second, shares of a core."""
    began, busy = time.monotonic(), (_cpu(page), _cpu(engine))
    tokens = _tokens(events)
    wait()
    seconds = time.monotonic() - began
    return {
        "seconds": seconds,
        "tokens_per_s": (_tokens(events) - tokens) / seconds,
        "page_cpu": (_cpu(page) - busy[0]) / seconds,
        "engine_cpu": (_cpu(engine) - busy[1]) / seconds,
    }


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _steps(events: Path) -> list[dict]:
    lines = events.read_text(encoding="utf-8").splitlines() if events.exists() else []
    return [json.loads(line) for line in lines if '"kind":"step"' in line and line.endswith("}")]


def _tokens(events: Path) -> float:
    return _steps(events)[-1]["tokens"]


async def _follow(url: str, count: int, seconds: float, taken: list[float], failed: list[str]) -> None:
    """`count` followers for `seconds`, each with its session and its connection."""
    config = httpx.get(url + "/config").json()
    view = next(c["id"] for c in config["components"] if "since" in str(c["props"].get("server_fns")))
    until = time.monotonic() + seconds
    await asyncio.gather(*(_follower(url, view, number, until, taken, failed) for number in range(count)))


async def _follower(url: str, view: int, number: int, until: float, taken: list[float], failed: list[str]) -> None:
    await asyncio.sleep(number * 0.02)  # they don't all come at the same moment
    run, cursor, connection = "", 0, _Connection(url)
    while (began := time.monotonic()) < until:
        body = {
            "component_id": view,
            "fn_name": "since",
            "session_hash": f"follower{number}",
            "data": {"follow": "", "run": run, "cursor": cursor},
        }
        try:
            reply = _without_events(await connection.post("/gradio_api/component_server", json.dumps(body)))
            run, cursor, wait = reply["run"], reply["cursor"], reply.get("wait_s", 0.25)
        except (OSError, EOFError, ValueError, KeyError) as error:
            failed.append(repr(error))
            connection.close()
            wait, connection = 2.0, _Connection(url)
        taken.append(time.monotonic() - began)
        await asyncio.sleep(wait)


class _Connection:
    """A kept HTTP connection, without what a library of HTTP clients does: followers share the cores with the page."""

    def __init__(self, url: str) -> None:
        self._host, self._port = url.removeprefix("http://").rstrip("/").split(":")
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()

    async def post(self, path: str, body: str) -> bytes:
        """The body of the answer. Raises OSError where that isn't of status 200."""
        if self._streams is None or self._streams[0].at_eof():  # a server closes one that was idle for seconds
            self.close()
            self._streams = await asyncio.open_connection(self._host, int(self._port))
        reader, writer = self._streams
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        status, *headers = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line[15:]) for line in headers if line.startswith(b"content-length:"))
        answer = await reader.readexactly(length)
        if b" 200 " not in status:
            raise OSError(f"{status!r} {answer[:200]!r}")
        return answer


def _without_events(answer: bytes) -> dict[str, Any]:
    """A reply without its events, which a browser parses on another machine than the page's."""
    start, end = answer.index(b'"events":['), answer.rindex(b'],"more"')
    return json.loads(answer[:start] + answer[end + 2 :])


if __name__ == "__main__":
    main()
