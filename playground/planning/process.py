"""The planning process: predicts memory and looks at rows while the engine is free for a run. Started by client.py.

Requests, in the JSON lines of jsonl_process.py: a function of forecast.py, largest.py, picture.py, rows.py or
tune_summary.py, `load_times`, `suggest_changes` of oom_suggestions.py, `repeat_files` of repeat.py, `weight_picture` of
weight.py, `adapter_spectrum` or `describe_adapter`, with its arguments. Settings are validated here, at the edge of the
process. Questions about rows, and about the largest models, send their progress as events {"kind": "progress", "done",
"total", "unit"}.
"""

import time
from collections.abc import Callable
from typing import Any

from playground import catalog, compat
from playground.data.allowed_names import checked_settings, raise_if_names_forbidden
from playground.jsonl_server import Emit, Server
from playground.planning.client import OF_ROWS
from playground.settings import parse

PROGRESS_SECONDS = 0.2  # between two progress events: as many as a person can read
OF_MEMORY = ("forecast", "waterfall", "card_verdicts", "fastest_settings", "predict_full_rows")
OF_LARGEST = ("largest_models", "largest_for_setups")
OF_PICTURE = ("bar", "job_tape", "write_tune_snapshot")


def main() -> None:
    """Serve requests until the page's process is gone."""
    server = Server()
    compat.import_libraries(catalog.cache_folder())
    server.serve(answer)


def answer(do: str, arguments: dict, emit: Emit) -> Any:
    """The result of one question. Raises PlaygroundError with everything that is wrong with its arguments."""
    if "settings" in arguments:
        arguments = arguments | {"settings": checked_settings(parse(arguments["settings"]))}
    raise_if_names_forbidden(arguments)
    if do in OF_ROWS:
        from playground.planning import repeat, rows, tune_summary

        module = {"tune_summary": tune_summary, "repeat_files": repeat}.get(do, rows)
        return getattr(module, do)(**arguments, on_progress=_throttled(emit))
    if do in OF_MEMORY:
        from playground.planning import forecast

        return getattr(forecast, do)(**arguments)
    if do in OF_LARGEST:
        from playground.planning import largest

        return getattr(largest, do)(**arguments, on_progress=_throttled(emit))
    if do == "weight_picture":
        from playground.planning import weight

        return weight.weight_picture(**arguments)
    if do == "adapter_spectrum":
        from playground.planning import adapter_spectrum

        return adapter_spectrum.adapter_spectrum(**arguments)
    if do == "describe_adapter":
        from playground.planning import foreign_adapter

        return foreign_adapter.describe_adapter(**arguments)
    if do == "load_times":
        from playground.planning import load_times

        return load_times.load_times(**arguments)
    if do in OF_PICTURE:
        from playground.planning import picture

        return getattr(picture, do)(**arguments)
    from playground.planning.oom_suggestions import suggest_changes

    return {"suggest_changes": suggest_changes}[do](**arguments)


def _throttled(emit: Emit) -> Callable[..., None]:
    """`on_progress(done, total, unit)` that emits at most one event each PROGRESS_SECONDS."""
    last = 0.0

    def on_progress(done: float, total: float, unit: str = "bytes") -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            emit({"kind": "progress", "done": done, "total": total, "unit": unit})

    return on_progress


if __name__ == "__main__":
    main()
