"""What Prometheus is told, in its text format."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from bulkhead.registry.metrics import Metrics

__all__ = ["CONTENT_TYPE", "text"]


def text(metrics: Metrics) -> bytes:
    """All figures of this moment."""
    shown = CollectorRegistry()
    shown.register(_Collected([*_of_requests(metrics), *_of_collector(metrics)]))
    return generate_latest(shown)


class _Collected:
    """Figures of this moment, as a collector."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _of_requests(metrics: Metrics) -> Iterator[Metric]:
    labels = ("method", "route", "code")
    requests = CounterMetricFamily("registry_http_requests", "Requests answered.", labels=labels)
    for (method, route, code), count in metrics.requests.items():
        requests.add_metric((method, route, str(code)), count)
    yield requests
    about = "Until the answer was sent."
    seconds = HistogramMetricFamily("registry_http_request_seconds", about, labels=("route",))
    for route, durations in metrics.seconds.items():
        seconds.add_metric((route,), durations.buckets(), durations.sum)
    yield seconds
    yield GaugeMetricFamily("registry_http_requests_active", "Requests under way.", value=metrics.active)
    yield CounterMetricFamily("registry_http_received_bytes", "Bodies received.", value=metrics.received)
    yield CounterMetricFamily("registry_http_sent_bytes", "Bodies sent.", value=metrics.sent)


def _of_collector(metrics: Metrics) -> Iterator[Metric]:
    yield CounterMetricFamily("registry_gc_rounds", "Rounds of the collector.", value=metrics.rounds)
    removed = CounterMetricFamily("registry_gc_removed", "What it removed.", labels=("kind",))
    for kind, count in metrics.swept.items():
        removed.add_metric((kind,), count)
    yield removed
    yield CounterMetricFamily("registry_gc_freed_bytes", "Bytes that it freed.", value=metrics.freed)
    yield GaugeMetricFamily("registry_gc_last_round_seconds", "The last round.", value=metrics.round_seconds)
