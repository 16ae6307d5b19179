"""Many visitors at the Plan tab at the same time: how long the last of them waits.

    python tests/bench/crowd.py --visitors 90

Starts the page. Each visitor opens it, then asks for the forecast as the tab's own listener does: all with the form's
settings (`equal`), or, of fewer visitors, each with another number of rows at once (`different`). `last_s` is the time
from the first question to the last answer, `wrong` counts answers that hold no forecast; opening the page is timed by
itself. A warm planner is asked last: `again` is `equal` once more.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import arms
import httpx

sys.path.insert(0, str(arms.PROJECT / "tests"))
from served_app import ServedApp

from playground.i18n import translate

LIBRARIES = ("gradio", "starlette", "uvicorn", "torch")
PREFIX = "/gradio_api"
MOST_SECONDS = 300.0
DIFFERENT = 15  # visitors whose questions differ: the planner answers one after the other


class Question:
    """The Plan tab's own call for a forecast, with the values that its fields have as the page opens."""

    def __init__(self, config: dict[str, Any]) -> None:
        props = {component["id"]: component["props"] for component in config["components"]}
        listener = next(fn for fn in config["dependencies"] if fn["api_name"] == "forecast")
        self.fn_index = listener["id"]
        self.values = [props[number].get("value") for number in listener["inputs"]]
        labels = [props[number].get("label") for number in listener["inputs"]]
        self.batch_size = labels.index(translate("en", "train.batch_size"))

    def data(self, batch_size: int | None) -> list:
        values = list(self.values)
        if batch_size:
            values[self.batch_size] = batch_size
        return values


async def ask(client: httpx.AsyncClient, question: Question, session: str, batch_size: int | None) -> bool:
    """Ask once, and read the stream to the end of the call. Returns whether there was a forecast."""
    body = {"data": question.data(batch_size), "fn_index": question.fn_index, "session_hash": session}
    joined = await client.post(f"{PREFIX}/queue/join", json=body)
    joined.raise_for_status()
    async with client.stream("GET", f"{PREFIX}/queue/data", params={"session_hash": session}) as stream:
        async for line in stream.aiter_lines():
            message = json.loads(line[5:]) if line.startswith("data:") else {}
            if message.get("msg") == "process_completed":
                return bool(message["success"]) and "GiB" in json.dumps(message["output"]["data"][0])
    return False


async def one_round(clients: list[httpx.AsyncClient], question: Question, name: str, different: bool) -> dict[str, Any]:
    began = time.monotonic()
    taken: list[float] = []

    async def visit(number: int, client: httpx.AsyncClient) -> bool:
        found = await ask(client, question, f"{name}{number}", number + 1 if different else None)
        taken.append(time.monotonic() - began)
        return found

    visits = asyncio.gather(*(visit(number, client) for number, client in enumerate(clients)))
    found = await asyncio.wait_for(visits, MOST_SECONDS)
    taken.sort()
    wrong = len(found) - sum(found)
    return {"arm": name, "round": 0, "last_s": taken[-1], "median_s": taken[len(taken) // 2], "wrong": wrong}


async def crowd(url: str, visitors: int) -> list[dict[str, Any]]:
    """Every arm, in the order in which a page meets them."""
    limits = httpx.Limits(max_connections=None)
    clients = [httpx.AsyncClient(base_url=url, timeout=MOST_SECONDS, limits=limits) for _ in range(visitors)]
    began = time.monotonic()
    pages = await asyncio.gather(*(client.get("/") for client in clients))
    opened = time.monotonic() - began
    rounds: list[dict[str, Any]] = [
        {"arm": "open", "round": 0, "last_s": opened, "wrong": sum(page.status_code != 200 for page in pages)}
    ]
    question = Question((await clients[0].get("/config")).json())
    for name, different in (("equal", False), ("different", True), ("again", False)):
        asking = clients[:DIFFERENT] if different else clients
        rounds.append(await one_round(asking, question, name, different) | {"visitors": len(asking)})
        print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    for client in clients:
        await client.aclose()
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--visitors", type=int, default=90)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/crowd.json")
    options = parser.parse_args()
    from playground.memory.meter import hardware

    with tempfile.TemporaryDirectory() as folder:
        app = ServedApp(Path(folder), {"HF_HUB_OFFLINE": "1"})
        try:
            app.wait_until_served()
            before = os.getloadavg()[0]
            rounds = asyncio.run(crowd(app.url, options.visitors))
        finally:
            app.close()
    facts = {"hardware": hardware("cpu"), "cores": os.cpu_count(), "load_before": before, "visitors": options.visitors}
    arms.write(options.out, arms.report("visitors at the Plan tab", LIBRARIES, rounds, **facts))


if __name__ == "__main__":
    main()
