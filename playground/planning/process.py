"""The planning process: says what a model would take, while the engine is free for a run. Started by planner.py.

One JSON object a line. In: {"id", "do": a function of memory/planner.py or preview.py, or "relief", "values": its arguments}.
Out: {"id", "progress": [done, total, unit]} as preview's go on, then {"id", "result"} or {"id", "error"}. What libraries print
goes to standard error.
"""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable

EVERY = 0.2  # seconds between two lines of progress
ASKED = ("forecast", "waterfall", "largest_models", "fastest_settings")
ABOUT_ROWS = ("count_rows", "xray", "cutoff_cost")


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    asked: queue.Queue = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            asked.put(json.loads(line))
        os._exit(0)  # the page's process is gone: nobody is left to answer

    threading.Thread(target=listen, daemon=True).start()
    while True:
        request = asked.get()

        def say(message: dict) -> None:
            out.write(json.dumps({"id": request["id"], **message}, ensure_ascii=False) + "\n")

        say(_answer(request["do"], request["values"], say))


def _answer(do: str, values: dict, say: Callable) -> dict:
    from playground.errors import as_playground_error
    from playground.settings import Settings

    try:
        from playground.planning import forecast
        from playground.planning.oom_suggestions import suggest_changes

        if "settings" in values:
            values["settings"] = Settings().with_values(values["settings"])
        known = {name: getattr(forecast, name) for name in ASKED} | {"suggest_changes": suggest_changes}
        if do in ABOUT_ROWS:
            from playground.planning import rows

            known, values = {name: getattr(rows, name) for name in ABOUT_ROWS}, values | {"on_progress": _telling(say)}
        return {"result": known[do](**values)}
    except Exception as error:
        import traceback

        traceback.print_exc()  # to the engine's log; the person reads the sentence
        return {"error": as_playground_error(error).to_dict()}


def _telling(say: Callable) -> Callable:
    """`tell(done, total, unit)` that passes on as much as a person can read."""
    last = 0.0

    def on_progress(done: float, total: float, unit: str = "bytes") -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            say({"progress": [done, total, unit]})

    return on_progress


if __name__ == "__main__":
    main()
