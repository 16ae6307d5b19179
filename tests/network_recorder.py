"""Record and refuse what Python processes would send beyond this machine: environment variables for a child process.

A `sitecustomize` module, which Python imports first of all, in the child and in the processes that it starts. What a
library's compiled code opens by itself isn't seen.
"""

import os
from pathlib import Path

_MODULE = """
import errno, os, socket

def _is_here(host):
    host = host.decode() if isinstance(host, bytes) else host
    return host in (None, "", "localhost", "0.0.0.0", "::", "::1") or str(host).startswith("127.")

def _watched(name):
    own = getattr(socket.socket, name)
    def method(self, address, *rest):
        if isinstance(address, tuple) and not _is_here(address[0]):
            _refuse(address)
        return own(self, address, *rest)
    setattr(socket.socket, name, method)

def _refuse(address):
    with open(os.environ["NETWORK_LOG"], "a") as file:
        print(os.getpid(), address, file=file)
    raise OSError(errno.ENETUNREACH, "no network in this test")

_resolve = socket.getaddrinfo

def _resolve_here(host, *rest, **named):
    if not _is_here(host):
        _refuse(host)
    return _resolve(host, *rest, **named)

socket.getaddrinfo = _resolve_here
for _name in ("connect", "connect_ex"):
    _watched(_name)
"""
_SET_BY_TESTS = ("HF_HUB_OFFLINE", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")


class NetworkRecorder:
    """`environment` for a child process, as an ordinary user has it; `attempts` is what it tried to reach.

    changes: in what it differs from this process's.
    """

    def __init__(self, folder: Path):
        self._log = folder / "network.log"
        modules = folder / "site"
        modules.mkdir(parents=True)
        (modules / "sitecustomize.py").write_text(_MODULE)
        own = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
        self.changes = dict.fromkeys(_SET_BY_TESTS, "")  # "": left out
        self.changes |= {"NETWORK_LOG": str(self._log), "PYTHONPATH": os.pathsep.join([str(modules), *own])}
        self.environment = {name: value for name, value in {**os.environ, **self.changes}.items() if value}

    @property
    def attempts(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []
