"""The worker process as the engine's client sees it: what it has loaded, the memory that it takes, why it ended."""

from dataclasses import dataclass

from playground.errors import PlaygroundError, problem
from playground.jsonl_process import Connection

KILLED = (-9, 137)  # exit codes after the kernel's out-of-memory killer
SHELL_SIGNALS = range(129, 160)  # exit codes of processes that a signal ended, as shells have them


@dataclass
class Worker:
    """A worker process, and what it has said about itself: the model that it has loaded, and its memory after a job."""

    connection: Connection
    loaded: dict | None = None
    memory: dict[str, int] | None = None

    @property
    def lives(self) -> bool:
        """Whether it runs, and was not asked to end."""
        return self.connection.alive and not self.connection.closing

    def exit_error(self, code: int) -> PlaygroundError:
        """Why it ended, as far as its exit code says."""
        if self.connection.closing:
            return problem("error.engine_closed")
        if code in KILLED:
            return problem("error.engine_killed", signal=9)
        if code < 0 or code in SHELL_SIGNALS:
            return problem("error.engine_signal", signal=-code if code < 0 else code - 128)
        return problem("error.engine_died", code=code, detail=(self.connection.last_log_line or "–")[:200])
