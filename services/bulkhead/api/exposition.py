"""What Prometheus is told: the API's requests, the engine's counts, and each running container's use.

A container has its rows for as long as it runs. So the number of series is bounded by the table of routes and by the
containers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from bulkhead import __version__
from bulkhead.api.metrics import Metrics
from bulkhead.api.ports.system import EngineInfo
from bulkhead.model.sample import InterfaceFigures, Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BY_CONTAINER = ("id", "name")
_INTERFACE = ("bytes", "packets", "errors", "dropped")


def text(metrics: Metrics, engine: EngineInfo | None, samples: Sequence[Sample]) -> bytes:
    """Prometheus's text format; without `engine` the manager is away."""
    shown = CollectorRegistry()
    shown.register(_Collected([*_of_requests(metrics), *_of_engine(engine), *_of_containers(samples)]))
    return generate_latest(shown)


def _of_requests(metrics: Metrics) -> Iterator[Metric]:
    labels = ("method", "route", "code")
    requests = CounterMetricFamily("bulkhead_api_requests", "Requests answered.", labels=labels)
    for (method, route, code), count in metrics.requests.items():
        requests.add_metric((method, route, str(code)), count)
    yield requests
    about = "Until a request was answered; streams count until their end."
    seconds = HistogramMetricFamily("bulkhead_api_request_seconds", about, labels=("route",))
    for route, durations in metrics.seconds.items():
        seconds.add_metric((route,), durations.buckets(), durations.sum)
    yield seconds
    yield GaugeMetricFamily("bulkhead_api_requests_active", "Requests under way.", value=metrics.active)


class _Collected:
    """Figures of this moment, as a collector."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _of_engine(engine: EngineInfo | None) -> Iterator[Metric]:
    about = GaugeMetricFamily("bulkhead_build_info", "The engine's version.", labels=("version",))
    about.add_metric((__version__,), 1)
    yield about
    yield GaugeMetricFamily("bulkhead_manager_up", "Whether the manager answers.", value=int(engine is not None))
    if engine is None:
        return
    states = GaugeMetricFamily("bulkhead_containers", "Containers by state.", labels=("state",))
    for state in ("running", "paused", "stopped"):
        states.add_metric((state,), getattr(engine, state))
    yield states
    yield GaugeMetricFamily("bulkhead_images", "Images.", value=engine.images)


def _of_containers(samples: Sequence[Sample]) -> Iterator[Metric]:
    alive = [each for each in samples if each.at]
    yield _counter("cpu_seconds", "CPU time used.", alive, lambda each: each.cpu.total / 1e9)
    yield _counter("cpu_throttled_seconds", "Time without CPU by quota.", alive, lambda each: each.cpu.throttled / 1e9)
    yield _gauge("memory_usage_bytes", "Memory in use, page cache included.", alive, lambda each: each.memory.usage)
    yield _gauge("memory_limit_bytes", "Memory limit; the machine's memory without one.", alive, _memory_limit)
    limited = [each for each in alive if each.pids is not None]
    yield _gauge("pids", "Tasks.", limited, lambda each: each.pids.usage if each.pids else 0)
    for index, what in enumerate(_INTERFACE):
        yield _network("receive", what, alive, partial(_at, "received", index))
        yield _network("transmit", what, alive, partial(_at, "sent", index))
    blocks = CounterMetricFamily(
        "bulkhead_container_block_bytes", "Bytes of block devices.", labels=(*_BY_CONTAINER, "op")
    )
    for sample in alive:
        for op in ("read", "write"):
            total = sum(row.value for row in sample.io_bytes if row.op.lower() == op)
            blocks.add_metric((sample.id, sample.name, op), total)
    yield blocks


_Figure = Callable[[Sample], float]


def _memory_limit(sample: Sample) -> float:
    return sample.memory.limit


def _counter(name: str, about: str, samples: Sequence[Sample], figure: _Figure) -> Metric:
    family = CounterMetricFamily(f"bulkhead_container_{name}", about, labels=_BY_CONTAINER)
    for sample in samples:
        family.add_metric((sample.id, sample.name), figure(sample))
    return family


def _gauge(name: str, about: str, samples: Sequence[Sample], figure: _Figure) -> Metric:
    family = GaugeMetricFamily(f"bulkhead_container_{name}", about, labels=_BY_CONTAINER)
    for sample in samples:
        family.add_metric((sample.id, sample.name), figure(sample))
    return family


def _network(way: str, what: str, samples: Sequence[Sample], figure: Callable[[InterfaceFigures], int]) -> Metric:
    labels = (*_BY_CONTAINER, "interface")
    family = CounterMetricFamily(f"bulkhead_container_network_{way}_{what}", f"Network {what}.", labels=labels)
    for sample in samples:
        for interface in sample.interfaces:
            family.add_metric((sample.id, sample.name, interface.name), figure(interface))
    return family


def _at(way: str, index: int, interface: InterfaceFigures) -> int:
    figures: tuple[int, ...] = getattr(interface, way)
    return figures[index]
