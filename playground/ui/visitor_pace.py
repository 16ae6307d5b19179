"""How much each visitor of a shared page may ask for, so that no one makes it slow for the others.

Every request takes some of its visitor's allowance, which fills up again with time. Whoever comes without a cookie, or
with one that hasn't been used yet, takes from an allowance that all newcomers share: a script that throws its cookies
away gets no more than one that keeps them. Of it, one address may take `ADDRESS_SHARE`. Behind a proxy all may have
one address, and without a proxy an address can be made up; so that share still lets the audience of a talk in, and the
limit of all together holds whatever the address.
"""

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Scope

from playground.i18n import LANGUAGES

PAGE_COST, CALL_COST, FILE_COST = 20.0, 1.0, 0.1  # 0.15 s, 5 ms and 1 ms of a processor, or less
FILES = (
    "/assets/",
    "/static/",
    "/file=",
    "/file/",
    "/theme.css",
    "/manifest.json",
    "/favicon",
    "/pwa_icon",
    "/svelte/",
)
PAGES = ("/config", "/info", "/openapi.json", "/docs", *(f"/{lang}" for lang in LANGUAGES))
BURST_SECONDS = 40.0  # of its calls that a visitor may use at once; opening the page takes 54 (87 files, 25 calls)
BURST_MINUTES = 5.0  # of newcomers who may come at once: with 60 a minute, 300
ADDRESS_SHARE = 0.75
MAX_VISITORS, MAX_ADDRESSES = 10_000, 1_000  # that are remembered; who hasn't come for longest is forgotten first


@dataclass
class Allowance:
    """What may still be taken: `most` at the beginning, and `rate` more every second. at: of the last change."""

    most: float
    rate: float
    at: float
    left: float

    def wait(self, cost: float, now: float) -> float:
        """Seconds until `cost` may be taken; 0 for now."""
        self.left = min(self.most, self.left + (now - self.at) * self.rate)
        self.at = now
        return max(0.0, (min(cost, self.most) - self.left) / self.rate)


@dataclass(frozen=True)
class Refusal:
    """A request that has to wait. key: of the sentence; seconds: until it would be taken."""

    key: str
    seconds: float


class VisitorPace:
    """Counts what visitors ask for. Safe to use from several threads.

    calls, newcomers: a minute, of one visitor and of all together. is_known: whether a visitor has something here from
    earlier, and is no newcomer.
    """

    def __init__(
        self,
        calls: int,
        newcomers: int,
        is_known: Callable[[str], bool] = lambda visitor: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls, self._newcomers, self._is_known, self._clock = calls / 60, newcomers / 60, is_known, clock
        self._visitors: OrderedDict[str, Allowance] = OrderedDict()
        self._addresses: OrderedDict[str, Allowance] = OrderedDict()
        self._all = self._of_newcomers(1.0)
        self._lock = threading.Lock()

    def refusal(self, visitor: str, address: str, cost: float, has_cookie: bool, has_login: bool) -> Refusal | None:
        """None where a request is taken, which is counted; else why it isn't."""
        now = self._clock()
        with self._lock:
            if not (has_cookie or has_login):
                return self._take_as_newcomer(address, cost, now)
            if visitor not in self._visitors and not has_login and not self._is_known(visitor):
                refused = self._take_as_newcomer(address, CALL_COST, now)
                if refused:
                    return refused
            full = self._calls * BURST_SECONDS
            own = self._visitors.setdefault(visitor, Allowance(full, self._calls, now, full))
            _forget_oldest(self._visitors, visitor, MAX_VISITORS)
            seconds = own.wait(cost, now)
            if seconds == 0:
                own.left -= cost
            return Refusal("shared.pace", seconds) if seconds else None

    def _take_as_newcomer(self, address: str, cost: float, now: float) -> Refusal | None:
        of_address = self._addresses.setdefault(address, self._of_newcomers(ADDRESS_SHARE))
        _forget_oldest(self._addresses, address, MAX_ADDRESSES)
        seconds = max(of_address.wait(cost, now), self._all.wait(cost, now))
        if seconds:
            return Refusal("shared.newcomers", seconds)
        of_address.left -= cost
        self._all.left -= cost
        return None

    def _of_newcomers(self, share: float) -> Allowance:
        """A newcomer's first two requests are the page, without a cookie, and the first one with a cookie."""
        rate = share * self._newcomers * (PAGE_COST + CALL_COST)
        most = rate * 60 * BURST_MINUTES
        return Allowance(most, rate, self._clock(), most)


def cost_of(method: str, route: str) -> float:
    """What a request takes of an allowance. route: without Gradio's prefix."""
    if route.startswith(FILES):
        return FILE_COST
    if method in ("GET", "HEAD") and (route.rstrip("/") == "" or route.startswith(PAGES)):
        return PAGE_COST
    return CALL_COST


def address_of(scope: Scope) -> str:
    """The address from which a request came, as the nearest proxy names it; of IPv6 the network, which is one line's.

    The last one of X-Forwarded-For: those before it are whatever the client has sent.
    """
    forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    client = scope.get("client") or ("", 0)
    text = forwarded[-1].decode("latin-1").rpartition(",")[2].strip() if forwarded else str(client[0])
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    return str(address) if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))


def _forget_oldest(kept: OrderedDict[str, Allowance], name: str, most: int) -> None:
    kept.move_to_end(name)
    if len(kept) > most:
        kept.popitem(last=False)
