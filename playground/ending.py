"""End a process in order: at a signal, or when its parent is gone, its work is asked to stop, and closed if it hangs.

The first SIGTERM, SIGINT or SIGHUP asks; a second one ends the process at once. Handlers of Python run only between two
instructions of the main thread, which may be in a long calculation or hang in a collective. So signals are taken in by
a thread, through the pipe that `signal.set_wakeup_fd` writes to.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
GRACE_SECONDS = 2.5  # for work to end by itself, before it is closed from another thread
LEAVE_SECONDS = 2.0  # for the main thread to leave the process by itself, once its work has ended
SECOND_AFTER = 0.5  # seconds: what `timeout` or a terminal sends to a process and to its group counts as one signal
PARENT = "parent"  # the cause where no signal came: the process that this one works for is gone


@dataclass(frozen=True, eq=False)
class _Work:
    """What is under way. stop(cause) asks it to end; close(cause) records its end where it hasn't after `grace` s.

    abort: ends what it has started elsewhere, before the process ends at once.
    """

    stop: Callable[[str], Any]
    close: Callable[[str], Any]
    grace: float
    abort: Callable[[], Any]


class Ending:
    """How a process is asked to end. cause: "" while nobody has asked, then a signal's name or PARENT."""

    def __init__(self) -> None:
        self.cause = ""
        self._lock = threading.Lock()
        self._work: list[_Work] = []
        self._asked_at = 0.0

    @property
    def status(self) -> int:
        """The exit status that tells the cause: 128 and the signal's number, as shells have it; 0 without a signal."""
        return 128 + signal.Signals[self.cause] if self.cause in signal.Signals.__members__ else 0

    def request(self, cause: str) -> bool:
        """Ask the process to end. Returns whether this was the first request; the process ends soon after it."""
        with self._lock:
            if self.cause:
                return False
            self.cause, self._asked_at = cause, time.monotonic()
            under_way = list(self._work)
        grace = max((work.grace for work in under_way), default=0.0)  # they may end as they are asked to
        if not under_way and cause == "SIGINT":
            return True  # the handler raises KeyboardInterrupt
        for work in under_way:
            work.stop(cause)
        threading.Thread(target=self._leave, args=(grace,), name="ending", daemon=True).start()
        return True

    @contextlib.contextmanager
    def work(
        self,
        stop: Callable[[str], Any],
        close: Callable[[str], Any] = lambda cause: None,
        grace: float = GRACE_SECONDS,
        abort: Callable[[], Any] = lambda: None,
    ) -> Iterator[None]:
        """Within it, a request to end stops this work; it is closed from another thread if it takes too long."""
        work = _Work(stop, close, grace, abort)
        with self._lock:
            self._work.append(work)
            cause = self.cause
        if cause:
            stop(cause)
        try:
            yield
        finally:
            with self._lock:
                self._work.remove(work)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Within it, signals end the process in order. Does nothing outside the main thread, which alone gets them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        hangup = getattr(signal, "SIGHUP", None)
        handled = [one for one in SIGNALS if one != hangup or signal.getsignal(one) != signal.SIG_IGN]  # as nohup asks
        before = {number: signal.signal(number, self._handle) for number in handled}
        fd_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(fd_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            writer.close()

    def _handle(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and not self._work:
            raise KeyboardInterrupt

    def _watch(self, reader: socket.socket) -> None:
        """Take in signals until the other end is closed."""
        with reader:
            while data := reader.recv(1):
                if data[0] not in SIGNALS:
                    continue
                if not self.request(signal.Signals(data[0]).name) and time.monotonic() > self._asked_at + SECOND_AFTER:
                    for work in list(self._work):
                        work.abort()
                    os._exit(128 + data[0])

    def _leave(self, grace: float) -> None:
        """Wait until the work has ended, close what hasn't in `grace` seconds, and end the process unless it does."""
        until = self._asked_at + grace
        while self._work and time.monotonic() < until:
            time.sleep(0.01)
        if unended := list(self._work):
            try:
                for work in unended:
                    work.close(self.cause)
            finally:
                os._exit(self.status)
        if grace:
            time.sleep(LEAVE_SECONDS)
        os._exit(self.status)


ENDING = Ending()  # of this process


class EndReport:
    """Whether the end of a job is recorded: exactly once, by the main thread or by the one that closes hanging work."""

    def __init__(self) -> None:
        self._lock, self._reported = threading.Lock(), False

    @contextlib.contextmanager
    def once(self) -> Iterator[bool]:
        """A lock around the report of the end. Yields whether this is the first report, the only one to write."""
        with self._lock:
            is_first, self._reported = not self._reported, True
            yield is_first

    @contextlib.contextmanager
    def before(self) -> Iterator[bool]:
        """A lock that the report waits for. Yields whether the end is still to be recorded: nothing comes after it."""
        with self._lock:
            yield not self._reported
