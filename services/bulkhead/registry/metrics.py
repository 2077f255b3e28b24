"""What Prometheus is told: requests, bytes, the collector."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from bulkhead.registry.ports import Swept

# Seconds: from a cached manifest to a large layer over a slow line.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """The registry's own counters; `route` is a name of the table of routes, never a path: paths are without end."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "registry_http_requests", "Requests answered.", ("method", "route", "code"), registry=self._registry
        )
        self._seconds = Histogram(
            "registry_http_request_seconds",
            "Until the answer was sent.",
            ("route",),
            registry=self._registry,
            buckets=BUCKETS,
        )
        self.active = Gauge("registry_http_requests_active", "Requests under way.", registry=self._registry)
        self._received = Counter("registry_http_received_bytes", "Bodies received.", registry=self._registry)
        self._sent = Counter("registry_http_sent_bytes", "Bodies sent.", registry=self._registry)
        self._rounds = Counter("registry_gc_rounds", "Rounds of the collector.", registry=self._registry)
        self._swept = Counter("registry_gc_removed", "What it removed.", ("kind",), registry=self._registry)
        self._freed = Counter("registry_gc_freed_bytes", "Bytes that it freed.", registry=self._registry)
        self._round_seconds = Gauge("registry_gc_last_round_seconds", "The last round.", registry=self._registry)

    def answered(self, method: str, route: str, code: int, seconds: float, received: int, sent: int) -> None:
        """Count a request."""
        self._requests.labels(method if method in _METHODS else "other", route, str(code)).inc()
        self._seconds.labels(route).observe(seconds)
        self._received.inc(received)
        self._sent.inc(sent)

    def collected(self, swept: Swept, seconds: float) -> None:
        """Count a round of the collector."""
        self._rounds.inc()
        self._round_seconds.set(seconds)
        for kind in ("manifests", "links", "blobs", "objects", "uploads"):
            self._swept.labels(kind).inc(getattr(swept, kind))
        self._freed.inc(swept.bytes)

    async def show(self, request: web.BaseRequest) -> web.StreamResponse:
        """GET /metrics."""
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
