"""List and inspect while containers are wedged: `python -m tests.bench.wedged_bench [containers [running]]`.

Of the running ones half have a stopped shim (SIGSTOP), half a frozen cgroup (pause by the kernel, not by the engine).
"""

from __future__ import annotations

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
from tests.support.engine import Engine, private_engine

ROUNDS = 200


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


def _shim(engine: Engine, container: str) -> int:
    pid: int = json.loads((engine.instance.container_data(container) / "shim.json").read_text())["pid"]
    return pid


def _group(engine: Engine, container: str) -> Cgroup:
    config = json.loads((engine.instance.container_data(container) / "config.json").read_text())
    return Cgroup(config["linux"]["cgroupsPath"])


def create(engine: Engine, count: int, *, started: bool) -> list[str]:
    made = []
    for _ in range(count):
        answer = engine.api("POST", "/containers/create", {"Image": "busybox", "Cmd": ["sleep", "9999"]})
        made.append(answer.json["Id"])
        if started:
            assert engine.api("POST", f"/containers/{made[-1]}/start").status == 204
    return made


def timed(engine: Engine, path: str, rounds: int = ROUNDS) -> list[float]:
    """Milliseconds of each request, sorted."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        assert engine.api("GET", path).status == 200
        taken.append((time.perf_counter() - began) * 1000)
    return sorted(taken)


def main(containers: int, running: int) -> None:
    with private_engine() as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox")
        stuck = create(engine, running, started=True)
        create(engine, containers - running, started=False)
        with wedged(engine, stuck):
            for path in ("/containers/json?all=1", f"/containers/{stuck[0]}/json", f"/containers/{stuck[-1]}/json"):
                taken = timed(engine, path)
                p99 = taken[int(len(taken) * 0.99) - 1]
                print(f"GET {path[:32]:32} p50 {statistics.median(taken):6.1f} ms  p99 {p99:6.1f} ms")
            for container in (stuck[0], stuck[-1]):
                began = time.perf_counter()
                answer = engine.api("DELETE", f"/containers/{container}?force=1")
                print(f"forced removal: {answer.status} after {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main(*(int(each) for each in (*sys.argv[1:], "500", "10")[:2]))
