"""How much one caller may ask for: requests per second, wrong passwords, open uploads."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from bulkhead.registry.errors import Code, Refusal

# Callers that are remembered; the one that was quiet longest is forgotten first.
MAX_CALLERS = 10_000

Clock = Callable[[], float]


class Rates:
    """A token bucket per key: `burst` at once, `per_second` in the long run."""

    def __init__(self, per_second: float, burst: float, clock: Clock = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = max(1.0, burst)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, key: str) -> float:
        """Seconds until `key` may do one more; 0 when it may now."""
        missing = 1.0 - self._left(key)
        return max(0.0, missing / self._per_second)

    def take(self, key: str) -> None:
        """Count one. Raises Refusal(TOOMANYREQUESTS) when there is none left, and counts nothing then."""
        self.check(key)
        self.count(key)

    def check(self, key: str) -> None:
        """Raises Refusal(TOOMANYREQUESTS) when `key` has none left."""
        wait = self.wait(key)
        if wait > 0:
            raise too_many("too many requests", wait)

    def count(self, key: str) -> None:
        """Count one, allowed or not."""
        self._buckets[key] = (max(0.0, self._left(key) - 1.0), self._clock())
        self._buckets.move_to_end(key)
        while len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)

    def _left(self, key: str) -> float:
        left, at = self._buckets.get(key, (self._burst, 0.0))
        return min(self._burst, left + (self._clock() - at) * self._per_second)


class Sessions:
    """Upload sessions that each caller has open.

    Those of before a restart are not counted; one that nothing is sent to for `idle` seconds is no longer.
    """

    def __init__(self, most: int, idle: float, clock: Clock = time.monotonic) -> None:
        self._most = most
        self._idle = idle
        self._clock = clock
        self._open: dict[str, OrderedDict[str, float]] = {}

    def check(self, key: str) -> None:
        """Raises Refusal(TOOMANYREQUESTS) when `key` may open no further session."""
        sessions = self._of(key)
        if len(sessions) >= self._most:
            oldest = next(iter(sessions.values()))
            raise too_many(f"more than {self._most} uploads open", oldest + self._idle - self._clock())

    def touch(self, key: str, session: str) -> None:
        """A session was opened or written to."""
        sessions = self._open.setdefault(key, OrderedDict())
        sessions[session] = self._clock()
        sessions.move_to_end(session)
        if len(sessions) > 2 * self._most:
            sessions.popitem(last=False)

    def end(self, key: str, session: str) -> None:
        """A session is over."""
        sessions = self._of(key)
        sessions.pop(session, None)
        if not sessions:
            self._open.pop(key, None)

    def _of(self, key: str) -> OrderedDict[str, float]:
        sessions = self._open.get(key, OrderedDict())
        while sessions and next(iter(sessions.values())) + self._idle <= self._clock():
            sessions.popitem(last=False)
        return sessions


def too_many(message: str, wait: float) -> Refusal:
    """The refusal that tells when to come again."""
    return Refusal(Code.TOOMANYREQUESTS, message, headers={"Retry-After": str(max(1, math.ceil(wait)))})


def network(address: str) -> str:
    """Who is counted as one: an IPv4 address, or the /64 that one IPv6 host may choose addresses from."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((parsed, 64), strict=False))
    return str(parsed)
