"""Run a blocking call in a thread, with progress and cancellation; and interrupt Python code that doesn't end."""

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
Progress = tuple[float, float, str]  # done, total, unit


_limiting = threading.RLock()
_deadlines: dict[int, float] = {}  # of threads within `time_limit`; 0 for one that was interrupted
_deadlines_changed = threading.Condition()
_watcher: list[threading.Thread] = []  # at most one


class Stopped(Exception):
    """The person pressed Stop."""


def run_in_background(
    call: Callable[[Callable[..., None]], Result], stop: threading.Event, every: float = 0.2
) -> Generator[dict, None, Result]:
    """Run `call(on_progress)` in a thread; yield a `progress` event at most each `every` seconds; return its result.

    `call` reports its progress with `on_progress(done, total, unit="bytes")`, which raises Stopped in its thread once
    `stop` is set. What `call` raises is raised here.
    """
    latest: list[Progress] = []  # at most one
    results: list[Result] = []
    errors: list[BaseException] = []

    def on_progress(done: float, total: float, unit: str = "bytes") -> None:
        if stop.is_set():
            raise Stopped
        latest[:] = [(done, total, unit)]

    def run() -> None:
        try:
            results.append(call(on_progress))
        except BaseException as error:  # raised again in the caller's thread, whatever it is
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    shown: Progress | None = None
    while thread.is_alive():
        thread.join(every)
        if latest and latest[0] != shown:
            shown = latest[0]
            yield {"kind": "progress", "done": shown[0], "total": shown[1], "unit": shown[2]}
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in this thread once what is within has run for so long. Doesn't nest.

    It ends loops of Python code, as those of a chat template; not one long call of a library.
    """
    thread = threading.get_ident()
    with _deadlines_changed:
        _deadlines[thread] = time.monotonic() + seconds
        if not _watcher:
            _watcher.append(threading.Thread(target=_watch_deadlines, daemon=True))
            _watcher[0].start()
        elif len(_deadlines) == 1:
            _deadlines_changed.notify()
    try:
        yield
    finally:
        with _deadlines_changed:
            interrupted = _deadlines.pop(thread) == 0
        if interrupted:
            for _ in range(1000):  # the exception comes between two steps of the interpreter: here at the latest
                pass


def _watch_deadlines() -> None:
    """Interrupt threads that are past their deadline, within a tenth of a second."""
    while True:
        with _deadlines_changed:
            _deadlines_changed.wait_for(lambda: bool(_deadlines))
            for thread, deadline in _deadlines.items():
                if 0 < deadline < time.monotonic():
                    _deadlines[thread] = 0
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TimeoutError))
        time.sleep(0.1)


@contextmanager
def memory_limit(most: int) -> Iterator[None]:
    """Have Python raise MemoryError where the process would take `most` bytes more than now, on Linux.

    For short calculations: what other threads take meanwhile counts too. Only one thread limits at a time.
    """
    if not sys.platform.startswith("linux") or not _limiting.acquire(blocking=False):
        yield
        return
    try:
        import resource

        before = soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limits = [limit for limit in (taken + most, soft, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
    finally:
        _limiting.release()
