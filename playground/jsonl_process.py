"""A child process that answers requests over its pipes, one JSON object a line: the parent's end, `Connection`.

The child's end is `jsonl_server.Server`.

To the child's standard input:
    {"id": number, "do": name, "arguments": {…}}   a request; they are answered one after the other
    {"cancel": id}                                 asks to end that request early
    {"end": cause}                                 asks the process to end; cause: a signal's name, or "parent"
From what was its standard output:
    {"ready": {…}}                                 once, when it is ready for its first request
    {"id": number, "event": {…}}                   as often as a request has news
    {"id": number, "result": …}                    the end of a request, or:
    {"id": number, "error": {"problems": […]}}     its failure, as PlaygroundError.to_dict()

What the child and its libraries print goes to standard error, which the connection appends to a log file. The child
ends itself when its standard input closes: nobody is left to work for. It has a session of its own, so that Ctrl-C in a
terminal reaches the parent alone, which then asks it to end.
"""

import json
import logging
import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from playground.ending import PARENT
from playground.json_values import lines_within, to_line
from playground.process_log import keep_log

PROJECT = Path(__file__).resolve().parents[1]
LOG_LINES = 40  # of standard error that are kept in memory
MAX_MESSAGE = 64 * 2**20  # characters of a message of the child; the largest, a preview, has 8 MiB
GRACE_SECONDS = 5.0  # between asking a process to end and killing it

Message = dict[str, Any]
OnMessage = Callable[[Message], None]

logger = logging.getLogger(__name__)


class Connection:
    """The parent's end: one child process, from its start to its exit. A new process takes a new connection.

    Each message of the child goes to the request whose id it carries, so a late one can't reach a request that was sent
    over another connection. When the process exits, its unfinished requests get a last message, {"exit": code}.
    folder: the process's working directory; by default this one's, so that relative paths mean the same in both.
    Safe to use from several threads.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.ready: dict | None = None  # what the child announced, once it has
        self.closing = False  # whether its end was asked for
        self._log_tail: deque[str] = deque(maxlen=LOG_LINES)
        self._requests: dict[int, OnMessage] = {}  # those without an end
        self._last_id = 0
        self._exited = False  # whether the unfinished requests have got the exit code
        self._lock = threading.Lock()  # of the requests
        self._writing = threading.Lock()
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=os.environ | _import_path() | {"PYTHONUNBUFFERED": "1"} | (environment or {}),
            start_new_session=True,
        )
        logged = (self._process.stderr, log, self._log_tail)
        self._logging_thread = threading.Thread(target=keep_log, args=logged, daemon=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._logging_thread.start()
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs, as far as the system knows now."""
        return self._process.poll() is None

    @property
    def last_log_line(self) -> str:
        """The last line that the process wrote to standard error, or ""."""
        return self._log_tail[-1] if self._log_tail else ""

    @property
    def last_log_lines(self) -> list[str]:
        """The last lines that the process wrote to standard error, at most LOG_LINES."""
        return list(self._log_tail)

    def send(self, do: str, arguments: dict, on_message: OnMessage) -> int:
        """Send a request; returns its id.

        `on_message` is called from the reader's thread with every message of this request, the last of which has one of
        the keys "result", "error" and "exit". A request to a process that has died gets {"exit": code} as well.
        Raises TypeError, ValueError or RecursionError for arguments that aren't JSON; nothing was sent then.
        """
        with self._lock:
            self._last_id += 1
            request_id, exited = self._last_id, self._exited
            line = to_line({"id": request_id, "do": do, "arguments": arguments})
            if not exited:
                self._requests[request_id] = on_message
        if exited:
            on_message({"exit": self._process.wait()})
        else:
            self._write(line)
        return request_id

    def cancel(self, request_id: int) -> None:
        """Ask the process to end a request early; its end still comes as a message."""
        self._write(to_line({"cancel": request_id}))

    def ask_to_end(self, cause: str = PARENT) -> None:
        """Ask the process to end in order. cause: what for, as of Ending."""
        self._write(to_line({"end": cause}))

    def close(self, grace: float = GRACE_SECONDS, cause: str = PARENT) -> None:
        """End the process, and with it its unfinished requests: ask it to, after `grace` seconds kill it."""
        self.closing = True
        if self.alive:
            if grace:
                self.ask_to_end(cause)
            try:
                self._process.wait(grace)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if threading.current_thread() is not self._reader:
            self._reader.join(GRACE_SECONDS)

    def close_input(self) -> None:
        """Close the process's standard input, as the end of this process would; it ends itself then."""
        assert self._process.stdin
        self._process.stdin.close()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once the process has ended and its unfinished requests know. Raises TimeoutExpired."""
        code = self._process.wait(timeout)
        self._reader.join(timeout)
        return code

    def _write(self, line: str) -> None:
        assert self._process.stdin
        with self._writing:
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
            except (OSError, ValueError):  # it has just died, ValueError: its input is closed; the reader will notice
                pass

    def _read(self) -> None:
        assert self._process.stdout
        try:
            for line in lines_within(self._process.stdout, MAX_MESSAGE):
                try:
                    self._dispatch(json.loads(line))
                except Exception:
                    logger.exception("process %d: a message that can't be handled: %.200r", self.pid, line)
        except ValueError as error:  # it would fill this process's memory
            logger.error("process %d is ended: %s", self.pid, error)
            self._process.kill()
        code = self._process.wait()
        self._logging_thread.join(1.0)  # its last words; not for ever, since children of the child may keep the pipe
        with self._lock:
            self._exited, unfinished, self._requests = True, list(self._requests.values()), {}
        for on_message in unfinished:
            try:
                on_message({"exit": code})
            except Exception:
                logger.exception("process %d: its exit can't be handled", self.pid)

    def _dispatch(self, message: Message) -> None:
        if "ready" in message:
            self.ready = message["ready"]
            return
        with self._lock:
            is_end = "event" not in message
            on_message = self._requests.pop(message["id"]) if is_end else self._requests[message["id"]]
        on_message(message)


def _import_path() -> dict[str, str]:
    """Variables with which a child imports this package from any working directory, and nothing that lies there."""
    path = os.pathsep.join(part for part in (str(PROJECT), os.environ.get("PYTHONPATH", "")) if part)
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
