"""The playground as a running process, for tests over HTTP and in a browser."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx
from toys import PROJECT

STARTUP_SECONDS = 300  # a busy machine takes its time
POLL_SECONDS = 0.1


class ServedApp:
    """`app.py`, or another script with its flags, on a free port: its address, its runs folder and its process."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None, script: str = "app.py") -> None:
        self.runs = folder / "runs"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = open(folder / "app.log", "w+")
        command = [sys.executable, script, "--port", str(self.port), "--runs", str(self.runs)]
        variables = {**os.environ, **(environment or {})}
        self.process = subprocess.Popen(command, cwd=PROJECT, env=variables, stdout=self._log, stderr=subprocess.STDOUT)

    def wait_until_served(self) -> None:
        """Wait until the page answers. Raises AssertionError with the app's output if it ends or never does."""
        until = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            with suppress(httpx.HTTPError):
                httpx.get(self.url, timeout=5)
                return
            time.sleep(POLL_SECONDS)
        self._log.seek(0)
        raise AssertionError(f"the page never answered: {self._log.read()[-2000:]}")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._log.close()
