"""Run a blocking call in a thread, with progress and cancellation."""

import threading
from collections.abc import Callable, Generator
from typing import TypeVar

Result = TypeVar("Result")
Progress = tuple[float, float, str]  # done, total, unit


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
