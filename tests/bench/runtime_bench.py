"""The runtime core in process: create to reaped, Docker-like config (budget 8 ms), and exec (budget 5 ms with the API).

python -m tests.bench.runtime_bench [rounds]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bulkhead.runtime import launch
from bulkhead.runtime.rootfs import StdioFds
from tests.bench.sitting import Bench, Samples, apart
from tests.bench.standalone import run
from tests.support.containers import Box, ended, wait


def lifecycle(box: Box, figures: dict[str, list[float]]) -> None:
    config, rootfs = box.config("/bin/true"), box.rootfs()
    marks = [time.perf_counter()]
    task = launch.create(container_id="bench", config=config, rootfs=rootfs, stdio=StdioFds())
    marks.append(time.perf_counter())
    task.start()
    marks.append(time.perf_counter())
    wait(task.pidfd)
    marks.append(time.perf_counter())
    task.cgroup.remove()
    task.close()
    marks.append(time.perf_counter())
    for name, begun, end in zip(("create", "start", "exit to reaped", "remove"), marks, marks[1:], strict=False):
        figures.setdefault(name, []).append((end - begun) * 1e3)
    figures.setdefault("create to reaped", []).append((marks[3] - marks[0]) * 1e3)


def further(box: Box, rounds: int, figures: dict[str, list[float]]) -> None:
    task, config = box.start("/bin/sleep", "600")
    process = {**config["process"], "args": ["/bin/true"]}
    for _ in range(rounds):
        begun = time.perf_counter()
        ended(launch.exec_(task=task, config=config, process=process, stdio=StdioFds()))
        figures.setdefault("exec to reaped", []).append((time.perf_counter() - begun) * 1e3)
    box.kill(task)


def measure(rounds: int) -> Samples:
    """So many lives, as many execs."""
    figures = dict[str, list[float]]()
    with tempfile.TemporaryDirectory(prefix="bh-bench-") as base:
        box = Box(Path(base))
        launch.prepare()
        for _ in range(rounds):
            lifecycle(box, figures)
        further(box, rounds, figures)
        box.close()
    return {f"runtime core, {name} [ms]": {"bulkhead": values} for name, values in figures.items()}


BENCHES = (Bench(name="core", about="the runtime core in process", run=apart("runtime_bench", 60, 30)),)

if __name__ == "__main__":
    run(measure, __doc__, 60)
