"""A container's life, exec, many at once, memory and logs, through the same HTTP API of each engine, turn by turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.bench.engine_client import EngineClient
from tests.bench.engines import IMAGE, Engine
from tests.bench.sitting import Bench, Sitting

NETWORKS = ("none", "bridge")
SLEEP = ["sleep", "3600"]


def lives(sitting: Sitting) -> None:
    """create, start, wait and remove of `true`; milliseconds each, in sum, and of the engine's CPU time."""
    for engine in sitting.engines:
        for network in NETWORKS:  # caches are warm after that
            _life(engine, network, lambda *_: None)
    for _ in sitting.rounds(30, 10):
        for engine in sitting.engines:
            for network in NETWORKS:
                whole = f"create+start+wait+remove, {network}"
                with sitting.cpu(f"{whole}, CPU of the engine [ms]", engine):
                    _life(engine, network, sitting.record)


def _life(engine: Engine, network: str, record: Callable[[str, str, float], None]) -> None:
    client = engine.client()
    marks = [time.perf_counter()]
    container = client.create(IMAGE, ["true"], NetworkMode=network)
    marks.append(time.perf_counter())
    client.start(container)
    marks.append(time.perf_counter())
    client.wait(container)
    marks.append(time.perf_counter())
    client.remove(container)
    marks.append(time.perf_counter())
    for step, begun, ended in zip(("create", "start", "wait", "remove"), marks, marks[1:], strict=False):
        record(f"{step}, {network} [ms]", engine.name, (ended - begun) * 1e3)
    record(f"create+start+wait+remove, {network} [ms]", engine.name, (marks[-1] - marks[0]) * 1e3)


def execs(sitting: Sitting) -> None:
    """Attached exec of `true` with its exit code read, and inspect, against one running container."""
    with running(sitting, 1) as containers:
        for _ in sitting.rounds(40, 12):
            for engine in sitting.engines:
                client, container = engine.client(), containers[engine.name][0]
                with sitting.cpu("exec true, CPU of the engine [ms]", engine):
                    begun = time.perf_counter()
                    client.exec(container, ["true"])
                    sitting.record("exec true, attached [ms]", engine.name, (time.perf_counter() - begun) * 1e3)
                begun = time.perf_counter()
                client.json("GET", f"/containers/{container}/json")
                sitting.record("inspect [ms]", engine.name, (time.perf_counter() - begun) * 1e3)


def eight(sitting: Sitting) -> None:
    """Whole lives of containers per second with eight clients at once."""
    for _ in sitting.rounds(30, 2):
        for engine in sitting.engines:
            for network in NETWORKS:
                _eight(sitting, engine, network)


def _eight(sitting: Sitting, engine: Engine, network: str, clients: int = 8, each: int = 4) -> None:
    def work() -> None:
        client = engine.client()
        for _ in range(each):
            container = client.create(IMAGE, ["true"], NetworkMode=network)
            client.start(container)
            client.wait(container)
            client.remove(container)

    with sitting.cpu(f"{clients} clients, {network}, CPU of the engine for each [ms]", engine, clients * each):
        seconds = together([work] * clients)
    sitting.record(f"{clients} clients, {network} [containers/s]", engine.name, clients * each / seconds)


def burst(sitting: Sitting) -> None:
    """Start of 100 containers at once, and their forced removal, one after the other."""
    count = sitting.size(100, 30)
    for _ in sitting.rounds(3, 1):
        for engine in sitting.engines:
            _burst(sitting, engine, count)


def _burst(sitting: Sitting, engine: Engine, count: int) -> None:
    client = engine.client()
    containers = [client.create(IMAGE, SLEEP, NetworkMode="none") for _ in range(count)]
    with sitting.cpu(f"start of {count} at once, CPU of the engine for each [ms]", engine, count):
        seconds = together([_starting(engine, each) for each in containers])
    sitting.record(f"start of {count} at once [s]", engine.name, seconds)
    begun = time.perf_counter()
    for container in containers:
        client.remove(container)
    sitting.record(f"remove {count} running [s]", engine.name, time.perf_counter() - begun)


def _starting(engine: Engine, container: str) -> Callable[[], None]:
    return lambda: engine.client().start(container)


def memory(sitting: Sitting) -> None:
    """What each running container costs in the engine's processes, the container's own left out."""
    count = sitting.size(50, 20)
    _rest(sitting)
    before = {engine.name: engine.memory() for engine in sitting.engines}
    with running(sitting, count) as containers:
        _rest(sitting)
        for engine in sitting.engines:
            client = engine.client()
            inside = {
                client.json("GET", f"/containers/{each}/json")["State"]["Pid"] for each in containers[engine.name]
            }
            grown = engine.memory(without=inside) - before[engine.name]
            sitting.record("memory per container [KiB]", engine.name, grown / count)


def idle(sitting: Sitting, seconds: float = 5.0) -> None:
    """Memory of all the engine's processes, and the CPU time they take while nobody asks, with containers too."""
    _rest(sitting)
    _idle(sitting, "idle stack", seconds)
    for engine in sitting.engines:
        sitting.record("memory of the idle stack [MiB]", engine.name, engine.memory() / 1024)
    count = sitting.size(50, 20)
    with running(sitting, count):
        _idle(sitting, f"{count} idle containers", seconds)


def _rest(sitting: Sitting) -> None:
    """What rows before have left warm must not be counted as there before, nor what a start needs for a moment."""
    for engine in sitting.engines:
        engine.rest()


def _idle(sitting: Sitting, what: str, seconds: float) -> None:
    time.sleep(1)  # what has just been asked for is over
    before = {engine.name: engine.group.milliseconds for engine in sitting.engines}
    time.sleep(seconds)
    for engine in sitting.engines:
        used = engine.group.milliseconds - before[engine.name]
        sitting.record(f"{what}, CPU per second [ms]", engine.name, used / seconds)


def logs(sitting: Sitting) -> None:
    """Throughput of a container that prints lines of 80 bytes, and of reading them back."""
    for _ in sitting.rounds(30, 2):
        for engine in sitting.engines:
            _log(sitting, engine)


def _log(sitting: Sitting, engine: Engine, megabytes: int = 64) -> None:
    client = engine.client()
    script = f"yes {'x' * 79} | head -c {megabytes * 1_000_000}"
    options: dict[str, Any] = {"LogConfig": {"Type": "json-file", "Config": {"max-size": "1g"}}}
    container = client.create(IMAGE, ["sh", "-c", script], NetworkMode="none", **options)
    try:
        begun = time.perf_counter()
        client.start(container)
        client.wait(container)
        sitting.record("log write [MB/s]", engine.name, megabytes / (time.perf_counter() - begun))
        begun = time.perf_counter()
        _, data = client.call("GET", f"/containers/{container}/logs?stdout=1&stderr=1")
        if len(data) < megabytes * 1_000_000:
            raise RuntimeError(f"{engine.name}: only {len(data)} bytes of log came back")
        sitting.record("log read [MB/s]", engine.name, megabytes / (time.perf_counter() - begun))
    finally:
        client.remove(container)


@contextmanager
def running(sitting: Sitting, count: int) -> Iterator[dict[str, list[str]]]:
    """So many sleeping containers on each engine, by its name."""
    made: dict[str, list[str]] = {engine.name: [] for engine in sitting.engines}
    try:
        for engine in sitting.engines:
            client = engine.client()
            for _ in range(count):
                made[engine.name].append(client.create(IMAGE, SLEEP, NetworkMode="none"))
                client.start(made[engine.name][-1])
        yield made
    finally:
        for engine in sitting.engines:
            _remove(engine.client(), made[engine.name])


def _remove(client: EngineClient, containers: Iterable[str]) -> None:
    for container in containers:
        client.remove(container)


def together(works: list[Callable[[], None]]) -> float:
    """Seconds until all that begin at once have ended; the first error of one is raised."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    if errors:
        raise errors[0]
    return seconds


BENCHES = (
    Bench(name="life", about="create, start, wait, remove", run=lives),
    Bench(name="exec", about="exec and inspect", run=execs),
    Bench(name="eight", about="eight clients at once", run=eight),
    Bench(name="burst", about="100 starts at once", run=burst),
    Bench(name="memory", about="memory per container", run=memory),
    Bench(name="idle", about="memory and CPU of the idle stack", run=idle),
    Bench(name="logs", about="writing and reading logs", run=logs),
)
