"""Whose each session of Gradio (6.31) is, and what one visitor's sessions may hold of the page's memory.

A session is what a browser's tab calls itself. The first visitor who names one has it. Gradio keeps the states of a
fixed number of sessions, and every answer until it is collected: without limits, one visitor could push out the others'
states, or fill the memory with answers that nobody collects.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, MutableMapping
from typing import Any

KEY = "playground.visitor"  # in a request's scope
NOBODY = "nobody"  # while the page is built, and in threads that no request has started
MAX_SESSIONS = 10_000  # whose visitors are remembered; the oldest is forgotten first
SESSIONS = 12  # of one visitor: each tab has one, and each reload begins another
UNCOLLECTED = 300  # messages of one visitor's sessions; a page that opens gets 30
TIDY_EVENTS = 200  # sessions with events, beyond which those are forgotten whose answers are gone


class VisitorSessions:
    """Which visitor has which sessions. Safe to use from several threads."""

    def __init__(self) -> None:
        self._owners: OrderedDict[str, str] = OrderedDict()  # session → visitor
        self._of: dict[str, OrderedDict[str, None]] = {}  # visitor → sessions, the one used least recently first
        self._lock = threading.Lock()

    def are_own(self, sessions: Iterable[str], visitor: str, blocks: Any = None) -> bool:
        """Whether sessions are this visitor's; the first who names one has it, and loses their own oldest for it.

        blocks: Gradio's page, in which a lost session's state and answers are dropped; None for none.
        """
        for session in sessions:
            with self._lock:
                if self._owners.setdefault(session, visitor) != visitor:
                    return False
                lost = self._note_use(session, visitor)
            for one in lost if blocks else ():
                _drop(blocks, one)
        return True

    def _note_use(self, session: str, visitor: str) -> list[str]:
        """Sessions that are forgotten for this one."""
        own = self._of.setdefault(visitor, OrderedDict())
        own[session] = None
        own.move_to_end(session)
        self._owners.move_to_end(session)
        lost = [next(iter(own))] if len(own) > SESSIONS else []
        if len(self._owners) - len(lost) > MAX_SESSIONS:
            lost.append(next(iter(self._owners)))
        for one in lost:
            owner = self._owners.pop(one, "")
            self._of.get(owner, OrderedDict()).pop(one, None)
            if not self._of.get(owner, True):
                del self._of[owner]
        return lost

    def owns_event(self, event: str, visitor: str, blocks: Any) -> bool:
        """Whether an event isn't another visitor's: by its id alone Gradio would end it, or go on with its answers."""
        queued = blocks._queue.event_ids_to_events.get(event)
        if queued is not None and visitor_of(queued.request) != visitor:
            return False
        pending = list(blocks._queue.pending_event_ids_session.items())
        with self._lock:
            owners = {self._owners.get(session, visitor) for session, events in pending if event in events}
        return owners <= {visitor}

    def uncollected(self, visitor: str, blocks: Any) -> int:
        """How many messages wait for a visitor's pages to collect them."""
        queue = blocks._queue
        with self._lock:
            sessions = list(self._of.get(visitor, ()))
        waiting = (dict.get(queue.pending_messages_per_session, session) for session in sessions)
        return sum(messages.qsize() for messages in waiting if messages is not None)


def visitor_of(request: Any) -> str:
    """The visitor of a request of Gradio's or Starlette's; NOBODY where there is none."""
    scope = getattr(getattr(request, "request", request), "scope", None)
    return scope.get(KEY, NOBODY) if isinstance(scope, MutableMapping) else NOBODY


def queued_events(visitor: str, blocks: Any) -> int:
    """How many of a visitor's events wait or run in Gradio's queue."""
    return sum(visitor_of(event.request) == visitor for event in _events(blocks._queue))


def tidy_queue(blocks: Any) -> None:
    """Forget the events of which neither an answer nor anything that makes one is left: Gradio keeps their ids."""
    queue = blocks._queue
    if len(queue.pending_event_ids_session) <= TIDY_EVENTS:
        return
    for session, events in list(queue.pending_event_ids_session.items()):
        if session not in queue.pending_messages_per_session and not events & queue.event_ids_to_events.keys():
            queue.pending_event_ids_session.pop(session, None)


def _events(queue: Any) -> list[Any]:
    """The events that run or wait in Gradio's queue."""
    running = [event for job in queue.active_jobs if job for event in job]
    waiting = [event for line in queue.event_queue_per_concurrency_id.values() for event in line.queue]
    return [*running, *waiting]


def _drop(blocks: Any, session: str) -> None:
    """Drop what Gradio keeps for a session: its states, its answers, and the events that would make more of them."""
    queue, states = blocks._queue, blocks.state_holder
    for event in _events(queue):
        if event.session_hash == session:
            event.alive = False  # it ends without an answer
    states.session_data.pop(session, None)
    states.time_last_used.pop(session, None)
    queue.pending_messages_per_session.pop(session, None)
    queue.pending_event_ids_session.pop(session, None)
