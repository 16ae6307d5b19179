"""Time the start of the page with and without its endpoints for programs and its MCP server.

    pip install "gradio[mcp]"
    python tests/bench/start_up.py                      # five rounds of three arms, about five minutes

Arms, each in a new process, interleaved over the rounds (every other round backwards):
  page       the page alone: without the endpoints of playground/ui/api.py, without an MCP server
  endpoints  with the endpoints
  mcp        with the endpoints and an MCP server: what `python app.py` is where the package `mcp` is installed

import_s: seconds of `import app`; build_s: of `build_app`; first_page_s: from the start of the process to the first 200
of GET /, polled twenty times a second; cpu_s: processor seconds of the page's process until then, which other programs
on the machine disturb less; rss_gib: its resident memory then.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import arms
import psutil

ARMS = ("page", "endpoints", "mcp")
LIBRARIES = ("gradio", "gradio_client", "mcp")
LONGEST_SECONDS = 300
START = """
import json, sys, time
from pathlib import Path
began = time.perf_counter()
import app
imported = time.perf_counter()
from playground.ui import api, build
arm, root, port = sys.argv[1:]
if arm == "page":
    api.mount = lambda page: None
api.has_mcp = lambda: arm == "mcp"
page = app.build_app(Path(root), "en", True)
built = time.perf_counter()
print(json.dumps({"import_s": round(imported - began, 3), "build_s": round(built - imported, 3)}), flush=True)
page.launch(server_port=int(port), quiet=True, **app.launch_options("en", None))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/start_up.json")
    options = parser.parse_args()
    from playground.memory.meter import hardware

    rounds: list[dict] = []
    for number in range(options.rounds):
        for arm in ARMS[:: -1 if number % 2 else 1]:
            load = round(os.getloadavg()[0], 2)
            measured = arms.attempt(lambda arm=arm: time_start(arm))  # type: ignore[misc]
            rounds.append({"round": number + 1, "arm": arm, "load_average": load} | measured)
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    report = arms.report("seconds to the first page", LIBRARIES, rounds, hardware=hardware("cpu"))
    arms.write(options.out, report)
    print(json.dumps(report["medians"], indent=1))


def time_start(arm: str) -> dict[str, Any]:
    """One start of the page."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", START, arm, folder, str(port)]
        environment = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=arms.PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            _wait_for_page(process, f"http://127.0.0.1:{port}/")
            seconds, page = time.perf_counter() - began, psutil.Process(process.pid)
            used, memory = page.cpu_times(), page.memory_info().rss
            assert process.stdout is not None
            times = json.loads(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(60)
    cpu = round(used.user + used.system, 2)
    return {**times, "first_page_s": round(seconds, 3), "cpu_s": cpu, "rss_gib": arms.gib(memory)}


def _wait_for_page(process: subprocess.Popen, url: str) -> None:
    """Raises RuntimeError where the process ends, or takes too long."""
    until = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            if urllib.request.urlopen(url, timeout=30).status == 200:
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"no page: exit status {process.poll()}")


if __name__ == "__main__":
    main()
