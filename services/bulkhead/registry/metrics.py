"""What is counted for Prometheus (`exposition`): requests, bytes, the collector."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate

from bulkhead.registry.ports import Swept

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Seconds: from a cached manifest to a large layer over a slow line.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """The registry's own counters, in plain numbers: a megabyte less than Prometheus's objects.

    `route` is a name of the table of routes, never a path: paths are without end. `active`: requests under way.
    """

    def __init__(self) -> None:
        self.active = 0
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.seconds: dict[str, Durations] = {}
        self.received = self.sent = 0
        self.rounds = self.freed = 0
        self.swept: Counter[str] = Counter()
        self.round_seconds = 0.0

    def answered(self, method: str, route: str, code: int, seconds: float, received: int, sent: int) -> None:
        """Count a request."""
        self.requests[method if method in _METHODS else "other", route, code] += 1
        self.seconds.setdefault(route, Durations()).add(seconds)
        self.received += received
        self.sent += sent

    def collected(self, swept: Swept, seconds: float) -> None:
        """Count a round of the collector."""
        self.rounds += 1
        self.round_seconds = seconds
        for kind in ("manifests", "links", "blobs", "objects", "uploads"):
            self.swept[kind] += getattr(swept, kind)
        self.freed += swept.bytes


class Durations:
    """How many requests of a route took up to each of _BUCKETS, and how many longer; their sum in seconds."""

    __slots__ = ("_counts", "sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(_BUCKETS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(_BUCKETS, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus has them: each holds those before it."""
        limits = (*map(str, _BUCKETS), "+Inf")
        return list(zip(limits, accumulate(self._counts), strict=True))
