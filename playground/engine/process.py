"""The engine's own process: reads requests, runs one job after another, writes its events. Started by engine.py.

One JSON object a line, in on standard input, out on what was standard output; what libraries print goes to standard
error. Requests: {"id", "do": "load" | "tune" | "chat" | "free", ...} and {"stop": id}; a "tune" with a "run" resumes it.
Answers: {"ready": …} once the libraries are imported; {"id", "event"} as a job goes on; {"id", "end": true, "error"?}.
"""

import json
import os
import queue
import sys
import threading
from pathlib import Path


def main(root: str) -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def say(message: dict) -> None:
        out.write(json.dumps(message, ensure_ascii=False) + "\n")

    wanted: queue.Queue = queue.Queue()
    bench_ready, running = threading.Event(), {"id": None}
    bench = None

    def listen() -> None:
        for line in sys.stdin:
            request = json.loads(line)
            if "stop" not in request:
                wanted.put(request)
            elif bench_ready.wait() and running["id"] == request["stop"]:
                bench.stop.set()
        os._exit(0)  # the page's process is gone: nobody is left to work for

    threading.Thread(target=listen, daemon=True).start()

    import torch

    from playground.engine.workbench import Workbench

    bench = Workbench(Path(root))
    bench_ready.set()
    say({"ready": {"cuda": torch.cuda.is_available(), "pid": os.getpid()}})
    while True:
        request = wanted.get()
        running["id"] = request["id"]
        bench.stop.clear()
        say({"id": request["id"], "end": True} | _do(bench, request, say))
        running["id"] = None


def _do(bench, request: dict, say) -> dict:
    """Run one job; {} or {"error": …} when it is over."""
    from playground.errors import as_playground_error
    from playground.settings import Generation, Settings

    try:
        settings = Settings().with_values(request.get("settings", {}))
        if request["do"] == "free":
            bench.free()
            return {}
        if request["do"] == "chat":
            generation = Generation(**request["generation"])
            events = bench.chat(settings, request["adapter"], request["sides"], generation)
        elif "run" in request:
            events = bench.resume(request["run"])
        else:
            events = {"load": bench.load, "tune": bench.tune}[request["do"]](settings)
        for event in events:
            say({"id": request["id"], "event": event})
        return {}
    except Exception as error:
        import traceback

        traceback.print_exc()  # to the engine's log; the person reads the sentence
        return {"error": as_playground_error(error).to_dict()}


if __name__ == "__main__":
    main(sys.argv[1])
