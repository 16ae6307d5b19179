"""Who follows a run through the endpoint holds no thread while nothing changes."""

import asyncio
import threading
from types import SimpleNamespace

from anyio import to_thread

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


def test_no_thread_is_held_between_two_looks(monkeypatch):
    looks = []
    monkeypatch.setattr(api, "POLL_SECONDS", 3600)
    progress = SimpleNamespace(look=lambda: (looks.append(1) is None, {"step": 1}))
    monkeypatch.setattr(api.Endpoints, "_progress", lambda *_: progress)
    endpoints = api.Endpoints(None)

    async def follow() -> None:
        async for _ in endpoints.follow("run"):
            pass

    async def held_threads() -> int:
        """How many threads are still in use after every follower has polled once."""
        asking = [asyncio.create_task(follow()) for _ in range(60)]
        limiter = to_thread.current_default_thread_limiter()
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if len(looks) == len(asking) and not limiter.borrowed_tokens:
                break
        held = limiter.borrowed_tokens
        for task in asking:
            task.cancel()
        return int(held)

    assert asyncio.run(held_threads()) == 0 and len(looks) == 60
