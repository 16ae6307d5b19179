"""One of the processes that fine-tune together: `accelerate launch … -m playground.engine.member ORDER`.

ORDER is a JSON file: {"root": folder of the runs, "settings" or "resume": the id of a run}. Rank 0 answers the engine's
process as a worker does (jsonl_process.py). The others read nothing from it, and write only why they failed. All end
with the engine's process, however that ends: they share its pipe as their standard input.
"""

import json
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from playground import catalog, compat
from playground.ending import ENDING
from playground.errors import as_playground_error
from playground.json_values import to_line
from playground.jsonl_server import Emit, Server
from playground.settings import parse

FAILED = "member_failed"  # the event of a rank that fails: "rank", "problems"; of the request with number 1
LATER_SECONDS = 8.0  # that the others stay after the engine's end, while rank 0 keeps what was learned


def main(path: str) -> None:
    """Do this process's part of the fine-tune."""
    order, rank = json.loads(Path(path).read_text(encoding="utf-8")), int(os.environ["RANK"])
    if rank == 0:
        server = Server(on_end=ENDING.request)
        with ENDING.signals():

            def answer(do: str, arguments: dict, emit: Emit) -> None:
                for event in _events(order, server.cancelled):
                    emit(event)

            server.announce_ready(pid=os.getpid())
            server.serve(answer)
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as output:
        os.dup2(2, 1)
        threading.Thread(target=_end_with_engine, daemon=True).start()
        with ENDING.signals():
            _follow_rank_0(order, rank, output.write)


def _events(order: dict, stop: threading.Event) -> Iterator[dict]:
    compat.import_libraries(catalog.cache_folder())
    from playground.engine.workbench import Workbench

    workbench = Workbench(Path(order["root"]), stop)
    if order["resume"]:
        return workbench.resume(order["resume"])
    return workbench.tune(parse(order["settings"]))


def _follow_rank_0(order: dict, rank: int, write: Callable[[str], object]) -> None:
    """Take the same steps as rank 0, which alone is asked to stop. A failure is reported, unless it follows another."""
    try:
        for _ in _events(order, threading.Event()):
            pass
    except Exception as error:
        traceback.print_exc()
        problems = as_playground_error(error).to_dict()
        if problems["problems"][0]["key"] != "error.rank_died":
            write(to_line({"id": 1, "event": {"kind": FAILED, "rank": rank, **problems}}))
        os._exit(1)  # not through the end of the process group, which may wait for the others


def _end_with_engine() -> None:
    """End this process some time after the other end of its standard input is gone; what rank 0 is sent stays there."""
    watch = select.poll()
    watch.register(0, 0)  # reports only the end
    watch.poll()
    time.sleep(LATER_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
