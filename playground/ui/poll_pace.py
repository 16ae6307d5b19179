"""How soon a browser asks for a run's news again: at once for a few, less often the more of them ask.

A poll takes time of the page's process, which training lacks on a machine with few cores (tests/bench/followers.py
measures it). Many followers ask at the same moment of each second: the process is woken once for all of them, and so
training's threads, which wait for each other, are interrupted once.
"""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable

POLLS_A_SECOND = 10 * (os.cpu_count() or 1)  # of all followers together: training waits for each on its own cores
LIVE_SECONDS, IDLE_SECONDS, LONGEST_SECONDS = 0.25, 1.0, 10.0  # between two polls of one follower
TOGETHER_SECONDS = 1.0  # who waits for longer asks at a multiple of this
WINDOW_SECONDS = 10.0  # in which followers are counted


class PollPace:
    """Counts the followers and tells each how long to wait. Safe to use from several threads.

    Each poll stands for the time until the same follower's next one: the waits that were handed out within a window,
    divided by its length, are the followers, whoever they are.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._polls: deque[tuple[float, float]] = deque()  # (time, wait)
        self._total = 0.0  # of the waits
        self._lock = threading.Lock()

    def next_wait(self, live: bool) -> float:
        """Seconds until the follower who asks now should ask again."""
        now = self._clock()
        with self._lock:
            while self._polls and self._polls[0][0] <= now - WINDOW_SECONDS:
                self._total -= self._polls.popleft()[1]
            followers = self._total / WINDOW_SECONDS
            wait = max(LIVE_SECONDS if live else IDLE_SECONDS, followers / POLLS_A_SECOND)
            wait = min(wait, LONGEST_SECONDS)
            if wait > TOGETHER_SECONDS:
                wait = math.ceil((now + wait) / TOGETHER_SECONDS) * TOGETHER_SECONDS - now
            self._polls.append((now, wait))
            self._total += wait
        return round(wait, 3)
