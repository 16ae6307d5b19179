"""A visitor of a page that strangers open who asks without end: refused with a sentence, and the others go on."""

import asyncio
import socket
import threading
import time
from collections import Counter

import httpx
import pytest
from run_async import run_async

from playground.settings.limits import Limits
from playground.ui.visitor_sessions import SESSIONS
from playground.ui.visitor_turns import TOGETHER

CALL = {"data": ["", 5, "en"]}  # of the endpoint that lists runs


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A shared page without its processes, and its address."""
    from playground.engine.client import Engine
    from playground.ui import build, launch

    folder, patch = tmp_path_factory.mktemp("crowd"), pytest.MonkeyPatch()
    for name in ("PLAYGROUND_CACHE", "GRADIO_TEMP_DIR"):
        patch.setenv(name, str(folder / name.lower()))
    patch.setattr(Engine, "start", lambda self: None)
    app = build.build_app(folder / "runs")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    app.launch(server_port=port, prevent_thread_lock=True, quiet=True, **launch.launch_options("en", app.shared))
    yield app, f"http://127.0.0.1:{port}"
    app.close()
    patch.undo()


def visitor(address: str) -> httpx.Client:
    """A browser that keeps its cookie."""
    client = httpx.Client(base_url=address, timeout=60)
    client.get("/gradio_api/startup-events")
    return client


def listed(client: httpx.Client) -> str:
    """What the queued endpoint answers."""
    joined = client.post("/gradio_api/call/runs", json=CALL)
    assert joined.status_code == 200, joined.text
    return client.get(f"/gradio_api/call/runs/{joined.json()['event_id']}").text


async def flood(address: str, cookies: dict, route: str, body: dict, count: int) -> Counter:
    """Statuses of `count` calls of one visitor, 16 at a time; nobody collects their answers. A call whose connection
    was lost, as one that the server closes for being idle while it is used again, counts by its error's name."""
    statuses: Counter[int | str] = Counter()
    async with httpx.AsyncClient(base_url=address, cookies=cookies, timeout=60) as client:

        async def send() -> None:
            for _ in range(count // 16):
                try:
                    status: int | str = (await client.post(route, json=body)).status_code
                except httpx.TransportError as error:
                    status = type(error).__name__
                statuses[status] += 1

        await asyncio.gather(*(send() for _ in range(16)))
    return statuses


def test_thousands_of_calls_of_one_visitor_slow_nobody_else(page):
    address = page[1]
    a, b = visitor(address), visitor(address)
    since = next(
        part["id"]
        for part in b.get("/config").json()["components"]
        if "since" in (part["props"].get("server_fns") or [])
    )
    asked = {"data": {"follow": "", "run": "", "cursor": 0}, "component_id": since, "fn_name": "since"}
    found: dict[str, Counter] = {}

    def attack() -> None:
        for route, body in (("call/runs", CALL), ("component_server/", asked | {"session_hash": "flooding"})):
            found[route] = run_async(flood(address, dict(a.cookies), f"/gradio_api/{route}", body, 2000))

    attacking = threading.Thread(target=attack)
    attacking.start()
    waits = []
    while attacking.is_alive():
        began = time.monotonic()
        assert "[[]]" in listed(b)
        waits.append(time.monotonic() - began)
        time.sleep(0.2)
    taken = sum(statuses[200] for statuses in found.values())
    assert found["component_server/"][429] > 1000 and taken < Limits().calls + 15 * 60, found
    lost = [status for statuses in found.values() for status in statuses.elements() if isinstance(status, str)]
    assert len(lost) <= 16, found  # one for each connection
    assert max(waits) < 3, waits
    body = asked | {"session_hash": "flooding"}
    answers = (a.post("/gradio_api/component_server/", json=body) for _ in range(900))
    refused = next(answer for answer in answers if answer.status_code != 200)
    assert refused.status_code == 429 and "Try again in 1 second" in refused.json()["error"]
    assert int(refused.headers["retry-after"]) >= 1


def test_events_that_do_not_end_leave_the_queue_to_the_others(page, monkeypatch):
    app, address = page
    ends = threading.Event()
    listener = next(fn for fn in app.fns.values() if fn.api_name == "run")
    monkeypatch.setattr(listener, "fn", lambda *values: ends.wait(60) and {})
    monkeypatch.setattr("playground.ui.visitor_turns.WAIT_SECONDS", 1.0)
    a, b = visitor(address), visitor(address)
    statuses = run_async(flood(address, dict(a.cookies), "/gradio_api/call/run", {"data": ["x", "en"]}, 16 * 3))
    assert statuses[200] + statuses[429] == 48  # an event that goes from the queue to work isn't counted meanwhile
    assert TOGETHER <= statuses[200] <= TOGETHER + 6
    assert "[[]]" in listed(b)
    refused = a.post("/gradio_api/call/run", json={"data": ["x", "en"]})
    assert refused.status_code == 429 and "under way" in refused.json()["detail"]
    ends.set()


def test_a_visitors_uncollected_answers_are_bounded_and_another_keeps_theirs(page):
    app, address = page
    a, b = visitor(address), visitor(address)
    event = b.post("/gradio_api/call/runs", json=CALL).json()["event_id"]
    queue = app.app.get_blocks()._queue
    before = len(queue.pending_messages_per_session)
    for _ in range(60):
        assert a.post("/gradio_api/call/runs", json=CALL).status_code == 200
    assert len(queue.pending_messages_per_session) <= before + SESSIONS and event in queue.pending_messages_per_session
    assert "[[]]" in b.get(f"/gradio_api/call/runs/{event}").text
    assert a.get(f"/gradio_api/call/runs/{event}").status_code == 403


def test_who_keeps_no_cookie_gets_the_page_and_nothing_else(page):
    address = page[1]
    assert httpx.get(address + "/", timeout=60).status_code == 200
    for route, body in (("call/runs", {"json": CALL}), ("upload", {"files": {"files": ("a.csv", b"q,a\n1,2\n")}})):
        refused = httpx.post(f"{address}/gradio_api/{route}", **body, timeout=60)
        assert refused.status_code == 403 and "cookie" in refused.json()["error"]
        again = httpx.post(f"{address}/gradio_api/{route}", **body, cookies=dict(refused.cookies), timeout=60)
        assert again.status_code == 200


def test_a_refusal_of_the_page_is_a_sentence(page, monkeypatch):
    from playground.ui.visitor_pace import Refusal, VisitorPace

    monkeypatch.setattr(VisitorPace, "refusal", lambda *values, **named: Refusal("shared.newcomers", 12.3))
    browser = {"accept": "text/html,*/*", "accept-language": "ja,en"}
    refused = httpx.get(page[1] + "/", headers=browser)
    assert refused.status_code == 429 and refused.headers["retry-after"] == "13"
    assert "13 秒" in refused.text and not refused.text.startswith("{")
