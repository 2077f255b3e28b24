"""What many containers cost whoever asks for a list, for one, for statistics, or for a restart of the daemons."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from urllib.parse import quote

from tests.bench.engine_bench import SLEEP, running, together
from tests.bench.engines import IMAGE, Engine
from tests.bench.sitting import Bench, Sitting


def many(sitting: Sitting) -> None:
    """`ps` and inspect with 1,000 containers that were created, then the daemons killed and started again."""
    count = sitting.size(1000, 200)
    for engine in sitting.engines:
        containers = fill(engine, count)
        client = engine.client()
        for _ in sitting.rounds(30, 10):
            begun = time.perf_counter()
            listed = client.json("GET", "/containers/json?all=1")
            sitting.record(f"ps of {count} [ms]", engine.name, (time.perf_counter() - begun) * 1e3)
            if len(listed) < count:
                raise RuntimeError(f"{engine.name}: {len(listed)} of {count} containers are listed")
            begun = time.perf_counter()
            client.json("GET", f"/containers/{containers[0]}/json")
            sitting.record(f"inspect of one of {count} [ms]", engine.name, (time.perf_counter() - begun) * 1e3)
        for _ in sitting.rounds(5, 1):
            _recovery(sitting, engine, f"{count} containers", count)
        engine.remove_containers()


def restarts(sitting: Sitting) -> None:
    """All daemons killed and started: with nothing to recover, and with 200 containers that run on meanwhile."""
    for _ in sitting.rounds(30, 2, share=0.3):
        for engine in sitting.engines:
            _recovery(sitting, engine, "no containers", 0)
    count = sitting.size(200, 20)
    with running(sitting, count):
        for _ in sitting.rounds(5, 1):
            for engine in sitting.engines:
                _recovery(sitting, engine, f"{count} running", count, "running")


def _recovery(sitting: Sitting, engine: Engine, beside: str, count: int, status: str = "") -> None:
    """From the start of the daemons that were killed until a list names every container again."""
    wanted = json.dumps({"status": [status]} if status else {})
    engine.kill()
    with sitting.cpu(f"daemons start with {beside}, CPU [ms]", engine):
        begun = time.perf_counter()
        engine.start()
        listed = engine.client().json("GET", f"/containers/json?all=1&filters={quote(wanted)}")
        sitting.record(f"daemons start with {beside} [s]", engine.name, time.perf_counter() - begun)
    if len(listed) < count:
        raise RuntimeError(f"{engine.name} has lost containers: {len(listed)} of {count} are listed")


def statistics(sitting: Sitting) -> None:
    """One sample of the statistics of every running container, asked for by eight clients."""
    count = sitting.size(100, 30)
    with running(sitting, count) as containers:
        for _ in sitting.rounds(30, 2, share=0.3):
            for engine in sitting.engines:
                shares = [containers[engine.name][number::8] for number in range(8)]
                with sitting.cpu("statistics, CPU of the engine for each container [ms]", engine, count):
                    seconds = together([_sampling(engine, share) for share in shares])
                sitting.record("statistics, each container [ms]", engine.name, seconds / count * 1e3)


def sampling(sitting: Sitting) -> None:
    """All running containers' statistics at once, as Prometheus asks for them; no peer has that."""
    count = sitting.size(500, 50)
    engine = sitting.engines[0]
    containers = fill(engine, count)
    together([starting(engine, containers[number::8]) for number in range(8)])
    for _ in sitting.rounds(30, 5):
        with sitting.cpu(f"statistics of {count} at once, CPU of the engine [ms]", engine):
            begun = time.perf_counter()
            status, text = engine.client().call("GET", "/metrics")
            sitting.record(f"statistics of {count} at once [ms]", engine.name, (time.perf_counter() - begun) * 1e3)
        if status != 200 or text.count(b"bulkhead_container_memory_usage_bytes{") < count:
            raise RuntimeError(f"statistics of {text.count(b'bulkhead_container_memory_usage_bytes{')} containers")
    engine.remove_containers()


def fill(engine: Engine, count: int) -> list[str]:
    """Containers that are made and not started, by eight clients."""
    made: list[str] = []

    def work() -> None:
        client = engine.client()
        made.extend(client.create(IMAGE, SLEEP, NetworkMode="none") for _ in range(count // 8 + 1))

    together([work] * 8)
    client = engine.client()
    while len(made) > count:
        client.remove(made.pop())
    return made


def _sampling(engine: Engine, containers: list[str]) -> Callable[[], None]:
    def work() -> None:
        client = engine.client()
        for container in containers:
            client.json("GET", f"/containers/{container}/stats?stream=0&one-shot=1")

    return work


def starting(engine: Engine, containers: list[str]) -> Callable[[], None]:
    def work() -> None:
        client = engine.client()
        for container in containers:
            client.start(container)

    return work


BENCHES = (
    Bench(name="many", about="ps, inspect and a restart of the daemons with 1,000 containers", run=many),
    Bench(name="restart", about="restart of the daemons, without containers and beside 200 running", run=restarts),
    Bench(name="stats", about="statistics of 100 containers", run=statistics),
    Bench(name="sampling", about="statistics of 500 containers at once", run=sampling),
)
