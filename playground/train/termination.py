"""Report the end of a run of several processes, even while the main thread hangs in a collective."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

GRACE_SECONDS = 3  # for the main thread to report its own error and exit, where all processes fail for the same reason


class TerminationWatch:
    """Reports the end of a run exactly once: by the main thread, or on SIGTERM by a thread that watches for it."""

    def __init__(self) -> None:
        self._lock, self._reported, self._watching = threading.Lock(), False, False

    def start(self, report: Callable[[], Any]) -> None:
        """On SIGTERM, call `report` and exit with status 1. To be called by the main thread.

        A launcher sends SIGTERM as soon as another process has died. The main thread may hang in a collective then,
        where no handler of Python's ever runs; so the signal wakes a thread through a pipe.
        """
        if self._watching:
            return
        self._watching = True
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

        def wait() -> None:
            while os.read(reader, 1) != bytes([signal.SIGTERM]):
                pass
            time.sleep(GRACE_SECONDS)
            try:
                with self.report_once() as is_first:
                    if is_first:
                        report()
            finally:
                os._exit(1)

        threading.Thread(target=wait, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Let SIGTERM end the process at once again."""
        if self._watching:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._watching = False

    @contextlib.contextmanager
    def report_once(self) -> Iterator[bool]:
        """A lock around the report of the run's end. Yields whether this is the first report, the only one to write."""
        with self._lock:
            is_first, self._reported = not self._reported, True
            yield is_first
