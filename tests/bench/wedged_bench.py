"""List, inspect and forced removal while containers are wedged.

Half of them have a stopped shim (SIGSTOP), half a frozen cgroup (pause by the kernel, not by the engine).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator

from bulkhead.linux.cgroups import Cgroup
from bulkhead.linux.process import start_time
from tests.bench.engine_bench import running
from tests.bench.many_bench import fill
from tests.bench.sitting import Bench, Sitting
from tests.support.engine import Engine

STUCK = 10


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
