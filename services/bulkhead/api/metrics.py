"""What is counted of the API's requests, for Prometheus (`exposition`).

Requests are labelled with the pattern of their route, never with a path, so that the table of routes bounds them.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"))
# Seconds: from an answer out of records to a pull over a slow line.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The counters of one API daemon, in plain numbers: Prometheus's own objects cost a request more than its route.

    `active`: requests under way.
    """

    def __init__(self) -> None:
        self.active = 0
        self.requests: dict[tuple[str, str, int], int] = {}
        self.seconds: dict[str, Durations] = {}

    def answered(self, method: str, route: str, code: int, seconds: float) -> None:
        """Count a request."""
        key = (method if method in _METHODS else "other", route, code)
        self.requests[key] = self.requests.get(key, 0) + 1
        durations = self.seconds.get(route)
        if durations is None:
            durations = self.seconds[route] = Durations()
        durations.counts[bisect_left(_BUCKETS, seconds)] += 1
        durations.sum += seconds


class Durations:
    """How many requests of a route took up to each of _BUCKETS, and how many longer; their sum in seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.sum = 0.0

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus has them: each holds those before it."""
        limits = (*map(str, _BUCKETS), "+Inf")
        return list(zip(limits, accumulate(self.counts), strict=True))
