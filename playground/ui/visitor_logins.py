"""Whose runs somebody sees who signs in: those that they made before, in the same browser, go with them."""

import threading
from collections import OrderedDict
from collections.abc import Callable

MAX_LOGINS = 10_000  # that are remembered; the oldest is forgotten first


class VisitorLogins:
    """Which visitor each login is. Safe to use from several threads.

    has_runs: whether a visitor has anything here.
    """

    def __init__(self, has_runs: Callable[[str], bool] = lambda visitor: False) -> None:
        self._has_runs = has_runs
        self._visitors: OrderedDict[str, str] = OrderedDict()  # login → the visitor by whose cookie they began
        self._lock = threading.Lock()

    def visitor(self, login: str, cookie: str) -> str:
        """The visitor of a login, itself a visitor's name, that comes with a cookie's visitor, "" for none.

        Who has runs by a cookie and none by the login keeps them; nobody else who signs in in that browser gets them.
        """
        with self._lock:
            found = self._visitors.get(login)
            if found is None and cookie and cookie not in self._visitors.values():
                if self._has_runs(cookie) and not self._has_runs(login):
                    found = self._visitors[login] = cookie
                    if len(self._visitors) > MAX_LOGINS:
                        self._visitors.popitem(last=False)
            return found or login
