"""A long call that says how far it is: run in a thread, its progress yielded as events, stoppable."""

import threading
from collections.abc import Callable, Generator


class Stopped(Exception):
    """The person pressed Stop."""


def run_in_background(call: Callable, stop: threading.Event, every: float = 0.2) -> Generator[dict, None, object]:
    """Run `call(tell)` in a thread; yield a `progress` event at most each `every` seconds; return its result.

    `tell(done, total, unit)` is for `call` to say how far it is; it raises Stopped there once `stop` is set. What
    `call` raises is raised here.
    """
    told: list[tuple] = []
    outcome: dict = {}

    def on_progress(done: float, total: float, unit: str = "bytes") -> None:
        if stop.is_set():
            raise Stopped
        told[:] = [(done, total, unit)]

    def run() -> None:
        try:
            outcome["result"] = call(on_progress)
        except BaseException as error:  # handed over to the caller's thread, whatever it is
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    last = None
    while thread.is_alive():
        thread.join(every)
        if told and told[0] != last:
            last = told[0]
            yield {"kind": "progress", "done": last[0], "total": last[1], "unit": last[2]}
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]
