"""The planning process: says what a model would take, while the engine is free for a run. Started by planner.py.

One JSON object a line. In: {"id", "do": a function of memory/planner.py or "relief", "values": its arguments}. Out: {"id",
"result"} or {"id", "error"}. What libraries print goes to standard error.
"""

import json
import os
import queue
import sys
import threading

ASKED = ("forecast", "waterfall", "largest", "fastest")


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
        out.write(json.dumps({"id": request["id"], **_answer(request["do"], request["values"])}, ensure_ascii=False) + "\n")


def _answer(do: str, values: dict) -> dict:
    from playground.errors import told
    from playground.settings import Settings

    try:
        from playground.memory import planner
        from playground.relief import relief

        if "settings" in values:
            values["settings"] = Settings().with_values(values["settings"])
        known = {name: getattr(planner, name) for name in ASKED} | {"relief": relief}
        return {"result": known[do](**values)}
    except Exception as error:
        import traceback

        traceback.print_exc()  # to the engine's log; the person reads the sentence
        return {"error": told(error).to_dict()}


if __name__ == "__main__":
    main()
