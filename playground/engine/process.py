"""The engine's own process: runs one job after another over a Workbench and sends its events. Started by client.py.

Requests, in the JSON lines of jsonl_process.py: "load" {"settings"}, "tune" {"settings", "exact"}, "resume" {"run_id"},
"chat" {"settings", "adapter", "sides", "generation"}, "chat_with_adapters" {"run_ids", "question", "generation"},
"lab" {"settings", "question"}, "export" {"order", "token"}, "unload"; each may name the "root" of its runs, where that
is another folder than the process was started with. The result of each is the memory at its end.
Settings are validated here, at the edge of the process. The process is ready once its libraries are imported:
{"ready": {"cuda": whether torch can use it, "pid"}}.
"""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from playground import catalog, compat
from playground.ending import ENDING
from playground.export.order import parse_order
from playground.jsonl_server import Emit, Server
from playground.lab.question import parse_question
from playground.settings import parse, parse_generation

if TYPE_CHECKING:
    from playground.engine.workbench import Workbench

PREDICTIONS = 8  # remembered: each job is predicted for the memory that is free as it starts, and none twice


def main(root: str) -> None:
    """Serve requests until the page's process is gone; runs are written to the folder `root`.

    At its end and at a signal, what a job has learned is kept and its run's record closed.
    """
    server = Server(on_end=ENDING.request)
    with ENDING.signals():
        _serve(server, root)


def _serve(server: Server, root: str) -> NoReturn:
    compat.import_libraries(catalog.cache_folder())
    import torch

    from playground.engine.workbench import Workbench
    from playground.memory import meter
    from playground.predict import calibration, trace_cache

    gc.freeze()  # the libraries' million objects stay: collecting garbage after each job needn't look at them
    trace_cache.keep_predictions(PREDICTIONS)
    workbench = Workbench(Path(root), server.cancelled)

    def answer(do: str, arguments: dict, emit: Emit) -> dict[str, int]:
        workbench.root = Path(arguments.get("root", root))
        for event in start_job(workbench, do, arguments):
            emit(event)
        return meter.read_memory()

    def measure_speed() -> None:
        """Once a machine, after the first model was loaded, so that no start and no job waits for it."""
        if workbench.loaded:
            calibration.measure_once(workbench.loaded.device)

    server.announce_ready(cuda=torch.cuda.is_available(), pid=os.getpid())
    server.serve(answer, measure_speed)


def start_job(workbench: "Workbench", do: str, arguments: dict) -> Iterator[dict]:
    """The events of a requested job. Raises PlaygroundError with everything that is wrong with the settings."""
    if do == "unload":
        return workbench.unload()
    if do == "resume":
        return workbench.resume(arguments["run_id"])
    if do == "export":
        return workbench.export(parse_order(arguments["order"]), arguments["token"])
    if do == "chat_with_adapters":
        generation = parse_generation(arguments["generation"])
        return workbench.chat_with_adapters(arguments["run_ids"], arguments["question"], generation)
    settings = parse(arguments["settings"])
    if do == "chat":
        generation = parse_generation(arguments["generation"])
        return workbench.chat(settings, arguments["adapter"], arguments["sides"], generation)
    if do == "lab":
        return workbench.lab(settings, parse_question(arguments["question"]))
    if do == "tune":
        return workbench.tune(settings, arguments["exact"])
    return {"load": workbench.load}[do](settings)


if __name__ == "__main__":
    main(sys.argv[1])
