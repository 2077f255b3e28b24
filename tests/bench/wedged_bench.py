"""List, inspect and forced removal while containers are wedged.

    python -m tests.bench.wedged_bench [--containers 500] [--wedged 10] [--rounds 200]

Half of the wedged have a stopped shim (SIGSTOP), half a frozen cgroup (pause by the kernel, not by the engine). The
command has all of them run, tells the 99th percentiles, what the containers cost, and how long the daemons need until
they answer again after their death, and fails above the goal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator

from bulkhead.linux.cgroups import Cgroup
from bulkhead.linux.process import start_time
from tests.bench.engine_bench import running, together
from tests.bench.engines import Engine as Benched
from tests.bench.engines import bulkhead
from tests.bench.many_bench import fill, starting
from tests.bench.sitting import Bench, Sitting
from tests.support.engine import Engine

STUCK = 10
GOAL_MS = 50.0


def beside_wedged(sitting: Sitting) -> None:
    """Ours alone: what is stopped here is a process of ours."""
    engine = sitting.engines[0]
    assert engine.installation is not None
    client = engine.client()
    with running(sitting, STUCK) as containers:
        stuck = containers[engine.name]
        fill(engine, sitting.size(500, 100))
        with wedged(engine.installation, stuck):
            for _ in sitting.rounds(100, 30):
                for what, path in (("ps", "/containers/json?all=1"), ("inspect", f"/containers/{stuck[0]}/json")):
                    begun = time.perf_counter()
                    client.json("GET", path)
                    sitting.record(
                        f"{what} while {STUCK} are wedged [ms]", engine.name, (time.perf_counter() - begun) * 1e3
                    )
            for kind, container in (("whose shim is stopped", stuck[0]), ("that is frozen", stuck[-1])):
                begun = time.perf_counter()
                client.remove(container)
                sitting.record(f"forced removal of one {kind} [s]", engine.name, time.perf_counter() - begun)
                stuck.remove(container)
    engine.remove_containers()


@contextlib.contextmanager
def wedged(engine: Engine, containers: list[str]) -> Iterator[None]:
    """Stop the shims of the first half, freeze the second half."""
    half = len(containers) // 2
    shims = [_shim(engine, each) for each in containers[:half]]
    groups = [_group(engine, each) for each in containers[half:]]
    for pid in shims:
        os.kill(pid, signal.SIGSTOP)
    for group in groups:
        group.freeze()
    try:
        yield
    finally:
        for group in groups:
            with contextlib.suppress(OSError):
                group.thaw()
        for pid in shims:
            if start_time(pid) is not None:
                os.kill(pid, signal.SIGCONT)


def create(engine: Engine, count: int, *, started: bool) -> list[str]:
    """So many containers."""
    made = []
    for _ in range(count):
        answer = engine.api("POST", "/containers/create", {"Image": "busybox", "Cmd": ["sleep", "9999"]})
        made.append(answer.json["Id"])
        if started:
            assert engine.api("POST", f"/containers/{made[-1]}/start").status == 204
    return made


def _shim(engine: Engine, container: str) -> int:
    pid: int = json.loads((engine.instance.container_data(container) / "shim.json").read_text())["pid"]
    return pid


def _group(engine: Engine, container: str) -> Cgroup:
    config = json.loads((engine.instance.container_data(container) / "config.json").read_text())
    return Cgroup(config["linux"]["cgroupsPath"])


BENCHES = (Bench(name="wedged", about="ps, inspect and rm -f beside wedged containers", run=beside_wedged),)


def main() -> int:
    options = _options()
    with bulkhead() as engine:
        assert engine.installation is not None
        idle, begun = engine.memory(), time.perf_counter()
        containers = fill(engine, options.containers)
        _say("created within", time.perf_counter() - begun, "s")
        begun = time.perf_counter()
        together([starting(engine, containers[number::8]) for number in range(8)])
        _say("started within", time.perf_counter() - begun, "s")
        _say("memory of each (PSS)", (engine.memory() - idle) / len(containers) / 1024, "MiB")
        stuck = containers[: options.wedged]
        with wedged(engine.installation, stuck):
            slowest = _slowest(engine, stuck[0], options.rounds)
            begun = time.perf_counter()
            engine.restart()
            _say("daemons killed, answering again after", time.perf_counter() - begun, "s")
            for kind, container in (("whose shim is stopped", stuck[0]), ("that is frozen", stuck[-1])):
                begun = time.perf_counter()
                engine.client().remove(container)
                _say(f"forced removal of one {kind}", time.perf_counter() - begun, "s")
    return 0 if slowest < GOAL_MS else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.wedged_bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, default in (("containers", 500), ("wedged", STUCK), ("rounds", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def _slowest(engine: Benched, container: str, rounds: int) -> float:
    """The worse 99th percentile of list and inspect, in milliseconds."""
    client, found = engine.client(), []
    for what, path in (("ps", "/containers/json?all=1"), ("inspect", f"/containers/{container}/json")):
        times = []
        for _ in range(rounds):
            begun = time.perf_counter()
            client.json("GET", path)
            times.append((time.perf_counter() - begun) * 1e3)
        found.append(statistics.quantiles(times, n=100)[-1])
        _say(f"{what}, median", statistics.median(times), "ms")
        _say(f"{what}, 99th percentile (goal {GOAL_MS:g})", found[-1], "ms")
    return max(found)


def _say(what: str, figure: float, unit: str) -> None:
    sys.stdout.write(f"{what:50} {figure:8.2f} {unit}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
