"""Many followers of one run: the file is read once for all of them, and the more they are the less often each asks."""

from playground import runs
from playground.runs import shared_reader
from playground.runs.shared_reader import BLOCKS, MAX_RUNS, SharedReader
from playground.runs.store import Run
from playground.settings import Settings
from playground.ui import live_view
from playground.ui.poll_pace import (
    IDLE_SECONDS,
    LIVE_SECONDS,
    LONGEST_SECONDS,
    POLLS_A_SECOND,
    TOGETHER_SECONDS,
    PollPace,
)

ROOM = 4_000_000


def _counted_reads(monkeypatch) -> list[int]:
    """The byte positions from which a run's file is read, from now on."""
    positions: list[int] = []
    read = Run.since

    def since(self, cursor=0, *rest, **named):
        positions.append(cursor)
        return read(self, cursor, *rest, **named)

    monkeypatch.setattr(Run, "since", since)
    return positions


def _steps(events) -> list[int]:
    return [event["step"] for event in events if event["kind"] == "step"]


def test_each_change_is_read_once_for_all_followers(tmp_path, monkeypatch):
    run, reader = runs.create(tmp_path, "tune", Settings()), SharedReader(lambda events: events)
    cursors = [reader.since(run, 0, ROOM)[1] for _ in range(50)]
    reads = _counted_reads(monkeypatch)
    seen: list[list[int]] = [[] for _ in cursors]
    for step in range(10):
        run.append("step", step=step)
        for follower, cursor in enumerate(cursors):
            if follower % 3 == 0 and step % 4:  # a third of them ask less often
                continue
            events, cursors[follower] = reader.since(run, cursor, ROOM)
            seen[follower] += _steps(events)
    assert [reader.since(run, cursors[1], ROOM)[0] for _ in cursors] == [[] for _ in cursors]  # nothing is new
    assert len(reads) == 10
    assert all(steps == list(range(9 if follower % 3 == 0 else 10)) for follower, steps in enumerate(seen))


def test_the_beginning_is_read_once_for_all_who_come_new(tmp_path, monkeypatch):
    run, reader = runs.create(tmp_path, "tune", Settings()), SharedReader(lambda events: events)
    reads, steps = _counted_reads(monkeypatch), 0
    for _ in range(3):
        for _ in range(BLOCKS // 2):
            run.append("step", step=steps)
            steps += 1
            for _ in range(3):
                events = reader.since(run, 0, ROOM)[0]
                assert _steps(events) == list(range(steps))
    assert reads.count(0) < 6 and len(reads) <= steps + 6  # again only after the blocks between have left memory
    monkeypatch.setattr(shared_reader, "MAX_BEGINNING", 10)  # of a long run it isn't kept
    assert [_steps(SharedReader(list).since(run, 0, ROOM)[0]) for _ in range(2)] == [list(range(steps))] * 2


def test_every_follower_sees_every_event_once_however_late(tmp_path):
    """Also one that begins in the middle, one that comes back after its events have left memory, and a torn line."""
    run, reader = runs.create(tmp_path, "tune", Settings()), SharedReader(lambda events: events)
    steady, late = reader.since(run, 0, ROOM)[1], reader.since(run, 0, ROOM)[1]
    seen: list[int] = []
    for step in range(BLOCKS + 50):
        run.append("step", step=step)
        events, steady = reader.since(run, steady, ROOM)
        seen += _steps(events)
    assert seen == list(range(BLOCKS + 50))
    with open(run.folder / "events.jsonl", "ab") as file:
        file.write(b'{"t":1,"kind":"st')
    for first in (late, 0):
        events, cursor = reader.since(run, first, ROOM)
        assert _steps(events) == seen and cursor == steady
        assert reader.since(run, cursor, ROOM) == ([], steady)
    with open(run.folder / "events.jsonl", "ab") as file:
        file.write(b'ep","step":-1}\n')
    assert _steps(reader.since(run, steady, ROOM)[0]) == [-1]


def test_a_long_run_comes_in_blocks(tmp_path):
    run, reader = runs.create(tmp_path, "tune", Settings()), SharedReader(lambda events: events)
    for step in range(300):
        run.append("step", step=step)
    cursor, seen = 0, []
    while len(seen) < 300:
        events, after = reader.since(run, cursor, 4000)
        assert after > cursor
        seen, cursor = seen + _steps(events), after
    assert seen == list(range(300))


def test_only_some_runs_stay_in_memory(tmp_path):
    reader = SharedReader(lambda events: events)
    followed = [runs.create(tmp_path, "tune", Settings()) for _ in range(MAX_RUNS + 2)]
    for _ in range(2):
        for run in followed:
            run.append("step", step=1)
            assert _steps(reader.since(run, 0, ROOM)[0])[-1:] == [1]
    assert len(reader._tails) <= MAX_RUNS


def _polls(followers: int, live: bool) -> list[float]:
    """The moments of so many followers' polls in the last ten of forty seconds."""
    now = 0.0
    pace = PollPace(lambda: now)
    due = [follower / (followers * 4) for follower in range(followers)]
    polls = []
    while now < 40:
        follower = min(range(followers), key=due.__getitem__)
        now = due[follower]
        polls.append(now)
        due[follower] = now + pace.next_wait(live)
    return [at for at in polls if at > 30]


def _polls_a_second(followers: int, live: bool) -> float:
    return len(_polls(followers, live)) / 10


def test_a_few_followers_poll_at_once():
    assert abs(_polls_a_second(1, True) - 1 / LIVE_SECONDS) < 0.2
    assert abs(_polls_a_second(5, True) - 5 / LIVE_SECONDS) < 2
    assert abs(_polls_a_second(5, False) - 5 / IDLE_SECONDS) < 1


def test_many_followers_together_poll_no_more_than_the_limit():
    for followers in (20, 100, 200):
        assert 0.6 * POLLS_A_SECOND < _polls_a_second(followers, True) < 1.4 * POLLS_A_SECOND


def test_many_followers_poll_at_the_same_moments():
    moments = {round(at, 2) for at in _polls(200, True)}
    assert len(moments) <= 11
    assert len({round(at, 2) for at in _polls(5, True)}) > 50  # a few don't wait for each other


def test_followers_that_have_left_are_forgotten():
    now = 0.0
    pace = PollPace(lambda: now)
    for _ in range(100_000):
        assert pace.next_wait(True) <= LONGEST_SECONDS + TOGETHER_SECONDS
    now = 60.0
    assert pace.next_wait(True) == LIVE_SECONDS


def test_who_comes_new_gets_a_long_run_shortened_with_its_last_step(tmp_path):
    run = runs.create(tmp_path, "tune", Settings())
    for step in range(3 * live_view.MAX_STEP_EVENTS):
        run.append("step", step=step)
    reader = SharedReader(lambda events: events, live_view._shortened)
    for _ in range(2):
        steps = _steps(reader.since(run, 0, ROOM)[0])
        assert live_view.MAX_STEP_EVENTS <= len(steps) <= live_view.MAX_STEP_EVENTS + 1
        assert steps[0] == 0 and steps[-1] == 3 * live_view.MAX_STEP_EVENTS - 1
    short = [{"kind": "step"}] * live_view.MAX_STEP_EVENTS
    assert live_view._shortened(short) == short
