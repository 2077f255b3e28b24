"""How the cost of one operation grows with what else there is: CPU time of the engine, a line fitted through n.

Wall time on a machine that others use says little here; CPU time of the engine's own processes says what it did.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.bench.engine_bench import SLEEP, together
from tests.bench.engine_client import EngineClient
from tests.bench.engines import IMAGE, Engine
from tests.bench.many_bench import fill, starting
from tests.bench.sitting import Bench, Sitting

TIMES = 10
# Others' work only adds: of so many goes one is undisturbed, also at the size on which a slope hangs.
_GOES = 5
# Networks of a sitting: another one beside it has others.
_FIRST = random.randrange(100, 180)
PORTS_EACH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """Something there may be much of: `add` makes so many more, `clear` takes all away. Peers get less of it: they
    are slow to make it, and their lines are as straight."""

    name: str
    sizes: tuple[int, ...]
    quick_sizes: tuple[int, ...]
    peer_sizes: tuple[int, ...] = (10, 100)
    add: Callable[[Engine, int, int], None]
    clear: Callable[[Engine], None]


def slopes(dimension: Dimension) -> Callable[[Sitting], None]:
    """The bench of one dimension."""

    def run(sitting: Sitting) -> None:
        for engine in sitting.engines:
            ours = dimension.quick_sizes if sitting.quick else dimension.sizes
            sizes = ours if engine is sitting.engines[0] else dimension.peer_sizes
            costs: dict[str, list[float]] = {}
            try:
                there = 0
                for size in sizes:
                    dimension.add(engine, there, size)
                    there = size
                    for operation, cost in _costs(engine):
                        costs.setdefault(operation, []).append(cost)
            finally:
                dimension.clear(engine)
            _record(sitting, engine, dimension, sizes, costs)

    return run


def _record(
    sitting: Sitting, engine: Engine, dimension: Dimension, sizes: tuple[int, ...], costs: dict[str, list[float]]
) -> None:
    for operation, by_size in costs.items():
        slope = statistics.linear_regression(sizes, by_size).slope
        for size, cost in zip(sizes, by_size, strict=True):
            sitting.record(f"{operation}, CPU with {size} {dimension.name} [ms]", engine.name, cost)
        sitting.record(f"{operation}, more CPU for 1,000 {dimension.name} [ms]", engine.name, slope * 1000)


def _costs(engine: Engine) -> Iterator[tuple[str, float]]:
    """CPU milliseconds of each operation, the mean of some, the least of some goes."""
    client, group = engine.client(), engine.group
    found: dict[str, list[float]] = {}

    def measured(operation: str, work: Callable[[], object], times: int) -> None:
        before = group.milliseconds
        work()
        found.setdefault(operation, []).append((group.milliseconds - before) / times)

    for _ in range(_GOES):
        made = [""] * TIMES
        for operation, work in _operations(client, made).items():
            measured(operation, work, TIMES)
    return iter((operation, min(costs)) for operation, costs in found.items())


def _operations(client: EngineClient, made: list[str]) -> dict[str, Callable[[], None]]:
    """What is done to each container of `made`, in this order; `create` fills that list."""

    def each(operation: Callable[[str], object]) -> Callable[[], None]:
        def work() -> None:
            for container in made:
                operation(container)

        return work

    def create() -> None:
        made[:] = [client.create(IMAGE, SLEEP) for _ in made]

    return {
        "create": create,
        "start": each(client.start),
        "exec": each(lambda container: client.exec(container, ["true"])),
        "inspect": each(lambda container: client.json("GET", f"/containers/{container}/json")),
        "remove": each(client.remove),
        "ps": each(lambda _: client.json("GET", "/containers/json?all=1")),
    }


def _add_stopped(engine: Engine, there: int, wanted: int) -> None:
    fill(engine, wanted - there)


def _add_running(engine: Engine, there: int, wanted: int) -> None:
    containers = fill(engine, wanted - there)

    together([starting(engine, containers[number::8]) for number in range(8)])


def _add_networks(engine: Engine, there: int, wanted: int) -> None:
    client = engine.client()
    for number in range(there, wanted):
        config = [{"Subnet": f"10.{_FIRST + number // 256}.{number % 256}.0/24"}]
        client.json("POST", "/networks/create", {"Name": f"bench{number}", "IPAM": {"Config": config}})


def _clear_networks(engine: Engine) -> None:
    client = engine.client()
    for network in client.json("GET", "/networks"):
        if network["Name"].startswith("bench"):
            client.json("DELETE", f"/networks/{network['Id']}")


def _add_tags(engine: Engine, there: int, wanted: int) -> None:
    client = engine.client()
    for number in range(there, wanted):
        client.json("POST", f"/images/{IMAGE}/tag?repo=bench{number}&tag=v1")


def _clear_tags(engine: Engine) -> None:
    client = engine.client()
    for image in client.json("GET", "/images/json"):
        for tag in image["RepoTags"] or ():
            if tag.startswith("bench"):
                client.json("DELETE", f"/images/{tag}")


def _add_ports(engine: Engine, there: int, wanted: int) -> None:
    """Containers that publish so many ports each: few, whose own cost is another dimension's."""
    client = engine.client()
    for _ in range((wanted - there) // PORTS_EACH):
        bindings = {f"{1000 + port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}] for port in range(PORTS_EACH)}
        client.start(client.create(IMAGE, SLEEP, PortBindings=bindings))


DIMENSIONS = {
    "stopped": Dimension(
        name="stopped containers",
        sizes=(10, 100, 1000, 10_000),
        quick_sizes=(10, 100, 300),
        peer_sizes=(10, 300),
        add=_add_stopped,
        clear=Engine.remove_containers,
    ),
    "running": Dimension(
        name="running containers",
        sizes=(10, 100, 1000),
        quick_sizes=(10, 40, 100),
        add=_add_running,
        clear=Engine.remove_containers,
    ),
    "networks": Dimension(
        name="networks",
        sizes=(10, 100, 500),
        quick_sizes=(5, 30),
        peer_sizes=(10, 30),
        add=_add_networks,
        clear=_clear_networks,
    ),
    "images": Dimension(
        name="images",
        sizes=(10, 100, 1000),
        quick_sizes=(10, 100),
        peer_sizes=(10, 300),
        add=_add_tags,
        clear=_clear_tags,
    ),
    "ports": Dimension(
        name="published ports",
        sizes=(0, 100, 1000),
        quick_sizes=(0, 100),
        peer_sizes=(0, 100),
        add=_add_ports,
        clear=Engine.remove_containers,
    ),
}

BENCHES = tuple(
    Bench(name=f"by-{name}", about=f"cost by the number of {dimension.name}", run=slopes(dimension))
    for name, dimension in DIMENSIONS.items()
)
