"""Who follows a run through the endpoint holds no thread while nothing changes."""

import asyncio
import threading

from playground.ui import api
from playground.ui.run_progress import RunProgress


def test_those_who_follow_a_run_hold_no_threads(monkeypatch):
    followers, looks, going = 100, [], [True]
    monkeypatch.setattr(api, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(api.Endpoints, "_progress", lambda *_: progress)

    class Progress(RunProgress):
        def __init__(self):
            pass

        def look(self):
            looks.append(threading.get_ident())
            return going[0], {"step": len(looks) > followers}

    progress, endpoints = Progress(), api.Endpoints(None)

    async def follow() -> list:
        return [state async for state in endpoints.follow("run")]

    async def everybody() -> list:
        asking = [asyncio.create_task(follow()) for _ in range(followers)]
        while len(looks) < 2 * followers:
            await asyncio.sleep(0.01)
        going[0] = False
        return await asyncio.gather(*asking)

    seen = asyncio.run(everybody())
    assert len(seen) == followers and all(states[-1] == {"step": True} for states in seen)
    assert len(set(looks)) <= 45  # of the pool that all share
