"""The playground as a running process, for tests over HTTP and in a browser."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
from toys import PROJECT

STARTUP_SECONDS = 300  # a busy machine takes its time
POLL_SECONDS = 0.1


class ServedApp:
    """`app.py`, or another script with its flags, on a free port: its address, its runs folder and its process."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        script: str = "app.py",
        project: Path = PROJECT,
        prefix: Sequence[str] = (),
        flags: Sequence[str] = (),
    ) -> None:
        """project: the folder to run in; prefix: a command that runs the app's. environment: beside this process's;
        a variable that is "" there is left out. flags: of the app."""
        self.runs = folder / "runs"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = open(folder / "app.log", "w+")
        command = [*prefix, sys.executable, script, "--port", str(self.port), "--runs", str(self.runs), *flags]
        variables = {name: value for name, value in {**os.environ, **(environment or {})}.items() if value}
        self.process = subprocess.Popen(command, cwd=project, env=variables, stdout=self._log, stderr=subprocess.STDOUT)

    def wait_until_served(self) -> None:
        """Wait until the page answers. Raises AssertionError with the app's output if it ends or never does."""
        until = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            with suppress(httpx.HTTPError):
                httpx.get(self.url, timeout=5)
                return
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"the page never answered: {self.output()[-2000:]}")

    def output(self) -> str:
        """What the app has printed so far, on both streams."""
        self._log.seek(0)
        return self._log.read()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._log.close()
