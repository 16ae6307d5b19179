"""What one visitor of a shared page, and all newcomers together, may ask of it."""

import asyncio
from types import SimpleNamespace

import pytest
from gradio.queueing import Queue
from run_async import run_async

from playground.ui import visitor_sessions, visitor_turns
from playground.ui.visitor_pace import CALL_COST, FILE_COST, PAGE_COST, VisitorPace, address_of, cost_of
from playground.ui.visitor_sessions import KEY, SESSIONS, VisitorSessions, queued_events, tidy_queue
from playground.ui.visitor_turns import STREAMS, TOGETHER, TooMany, VisitorTurns


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def call(pace: VisitorPace, visitor: str, address: str = "1.1.1.1", cost: float = CALL_COST) -> bool:
    return pace.refusal(visitor, address, cost, has_cookie=True, has_login=False) is None


def opens(pace: VisitorPace, visitor: str, address: str = "1.1.1.1") -> bool:
    """Whether somebody new gets the page, its files and its first calls."""
    page = pace.refusal("made for this request", address, PAGE_COST, has_cookie=False, has_login=False)
    costs = [*[FILE_COST] * 87, *[CALL_COST] * 25]
    return page is None and all(call(pace, visitor, address, cost) for cost in costs)


def test_a_visitor_who_asks_too_often_waits_and_nobody_else_does(clock):
    pace = VisitorPace(900, 60, clock=clock)
    taken = sum(call(pace, "flood") for _ in range(5000))
    assert taken == 600
    refused = pace.refusal("flood", "1.1.1.1", CALL_COST, True, False)
    assert refused.key == "shared.pace" and 0 < refused.seconds <= 1
    assert call(pace, "ada") and call(pace, "bob", "2.2.2.2")
    clock.now += 60
    assert sum(call(pace, "flood") for _ in range(5000)) == 600
    clock.now += 1
    assert sum(call(pace, "flood") for _ in range(5000)) == 15


def test_a_page_costs_more_than_a_call_and_a_file_less():
    assert cost_of("GET", "/") == cost_of("GET", "/ja") == cost_of("GET", "") == cost_of("GET", "/info") == PAGE_COST
    assert cost_of("GET", "/assets/index.js") == cost_of("GET", "/file=/tmp/x") == FILE_COST
    assert cost_of("POST", "/queue/join") == cost_of("GET", "/queue/data") == cost_of("POST", "/upload") == CALL_COST
    assert PAGE_COST > CALL_COST > FILE_COST


@pytest.mark.parametrize("address", ["10.0.0.1", "{number}.1.1.1"])
def test_an_audience_of_two_hundred_opens_the_page_within_a_minute_from_one_address_too(clock, address):
    pace = VisitorPace(900, 60, clock=clock)
    for number in range(200):
        assert opens(pace, f"visitor {number}", address.format(number=number))
        clock.now += 0.3


def test_a_script_that_throws_its_cookies_away_gets_what_all_newcomers_share(clock):
    pace = VisitorPace(900, 60, clock=clock)
    assert call(pace, "ada")
    news = sum(opens(pace, f"new {number}", "6.6.6.6") for number in range(5000))
    assert 200 < news <= 225  # of one address
    assert sum(opens(pace, f"other {number}", f"7.7.{number % 99}.7") for number in range(5000)) <= 75
    clock.now += 60
    later = sum(opens(pace, f"later {number}", f"8.8.{number % 99}.8") for number in range(5000))
    assert 50 < later <= 60
    assert call(pace, "ada"), "who is in stays in"


def test_cookies_that_were_collected_before_make_no_crowd(clock):
    pace = VisitorPace(900, 60, clock=clock)
    used = sum(call(pace, f"kept {number}", f"{number}") for number in range(100_000))
    assert used <= 60 * 5 * (PAGE_COST + CALL_COST)


def test_who_has_runs_or_a_login_is_no_newcomer(clock):
    pace = VisitorPace(900, 60, is_known=lambda visitor: visitor == "kept", clock=clock)
    used = 0
    while call(pace, f"new {used}", f"{used}"):  # until nothing is left for a newcomer's first call
        used += 1
    assert used > 100 and not call(pace, "another", "9.9.9.9")
    assert call(pace, "kept") and pace.refusal("user", "x", CALL_COST, has_cookie=False, has_login=True) is None


@pytest.mark.parametrize("client,forwarded,address", [
    ("9.9.9.9", [], "9.9.9.9"),
    ("10.0.0.1", [b"1.2.3.4"], "1.2.3.4"),
    ("10.0.0.1", [b"6.6.6.6, 1.2.3.4"], "1.2.3.4"),  # what stands before it, the client has sent
    ("10.0.0.1", [b"6.6.6.6", b"1.2.3.4"], "1.2.3.4"),
    ("10.0.0.1", [b"\xff no address"], ""),
    ("2001:db8:1:2:3::1", [], "2001:db8:1:2::/64"),
])  # fmt: skip
def test_an_address_is_the_one_that_the_nearest_proxy_names(client, forwarded, address):
    headers = [(b"x-forwarded-for", value) for value in forwarded]
    assert address_of({"headers": headers, "client": (client, 1)}) == address


def test_a_visitors_calls_wait_for_each_other_and_not_for_anothers(monkeypatch):
    monkeypatch.setattr(visitor_turns, "WAIT_SECONDS", 0.2)
    turns, most = VisitorTurns(), 0

    async def work(visitor: str, ends: asyncio.Event) -> None:
        nonlocal most
        async with turns.call(visitor):
            most = max(most, turns._calls["flood"])
            await ends.wait()

    async def scene() -> list:
        ends = asyncio.Event()
        flood = [asyncio.create_task(work("flood", ends)) for _ in range(100)]
        await asyncio.sleep(0.01)
        other = asyncio.Event()
        other.set()
        await asyncio.wait_for(work("ada", other), 0.1)
        await asyncio.sleep(0.4)
        ends.set()
        return await asyncio.gather(*flood, return_exceptions=True)

    ended = run_async(scene())
    assert most == TOGETHER == sum(one is None for one in ended) and not turns._calls
    assert all(one is None or isinstance(one, TooMany) for one in ended)


def test_a_visitors_streams_are_counted():
    async def scene() -> None:
        turns = VisitorTurns()
        held = [turns.stream("flood") for _ in range(STREAMS)]
        for stream in held:
            await stream.__aenter__()
        with pytest.raises(TooMany):
            async with turns.stream("flood"):
                pass
        async with turns.stream("ada"):
            pass
        await held[0].__aexit__(None, None, None)
        async with turns.stream("flood"):
            pass

    run_async(scene())


@pytest.fixture
def blocks():
    """Gradio's own queue, and the states of sessions."""
    queue = Queue(False, 8, 1, 64, None)
    queue.active_jobs = [None] * 8
    states = SimpleNamespace(session_data={}, time_last_used={})
    return SimpleNamespace(_queue=queue, state_holder=states)


def add_event(blocks, session: str, visitor: str = "flood", messages: int = 1):
    """An event that runs, and has sent messages which nobody has collected."""
    event = SimpleNamespace(_id=f"e-{session}", session_hash=session, alive=True)
    event.request = SimpleNamespace(scope={KEY: visitor})
    queue = blocks._queue
    queue.active_jobs[queue.active_jobs.index(None)] = [event]
    queue.pending_messages_per_session[session] = asyncio.Queue()
    for _ in range(messages):
        queue.pending_messages_per_session[session].put_nowait("message")
    queue.pending_event_ids_session[session] = {event._id}
    blocks.state_holder.session_data[session] = blocks.state_holder.time_last_used[session] = "state"
    return event


def test_a_visitor_with_many_sessions_loses_their_own_oldest(blocks):
    sessions = VisitorSessions()
    assert sessions.are_own(["ada-1"], "ada", blocks)
    kept, event = add_event(blocks, "ada-1", "ada"), add_event(blocks, "s0")
    for number in range(SESSIONS + 1):
        assert sessions.are_own([f"s{number}"], "flood", blocks)
    assert set(blocks.state_holder.session_data) == {"ada-1"} == set(blocks._queue.pending_messages_per_session)
    assert set(blocks._queue.pending_event_ids_session) == {"ada-1"} == set(blocks.state_holder.time_last_used)
    assert kept.alive and not event.alive
    blocks._queue.send_message(event, SimpleNamespace())  # it ends quietly
    assert not sessions.are_own(["ada-1"], "flood", blocks) and sessions.are_own(["s0"], "bob", blocks)


def test_no_more_sessions_are_remembered_than_the_limit(blocks, monkeypatch):
    monkeypatch.setattr(visitor_sessions, "MAX_SESSIONS", 50)
    sessions = VisitorSessions()
    for number in range(500):
        assert sessions.are_own([f"s{number}"], f"visitor {number}", blocks)
    assert len(sessions._owners) == len(sessions._of) == 50


def test_what_a_visitor_has_in_the_queue_is_counted(blocks):
    sessions = VisitorSessions()
    for session, visitor, messages in (("a", "flood", 7), ("b", "flood", 5), ("c", "ada", 3)):
        assert sessions.are_own([session], visitor, blocks)
        add_event(blocks, session, visitor, messages)
    assert (queued_events("flood", blocks), queued_events("ada", blocks), queued_events("bob", blocks)) == (2, 1, 0)
    assert (sessions.uncollected("flood", blocks), sessions.uncollected("ada", blocks)) == (12, 3)


def test_events_whose_answers_are_gone_are_forgotten(blocks, monkeypatch):
    monkeypatch.setattr(visitor_sessions, "TIDY_EVENTS", 3)
    queue = blocks._queue
    add_event(blocks, "kept")
    queue.event_ids_to_events["running"] = object()
    queue.pending_event_ids_session |= {"running": {"running"}, "gone": {"gone"}, "gone too": {"x"}}
    tidy_queue(blocks)
    assert set(queue.pending_event_ids_session) == {"kept", "running"}
