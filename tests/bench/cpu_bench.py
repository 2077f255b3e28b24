"""What a container's life costs in processor time, by process and step; two installations may be compared in turns.

    python -m tests.bench.cpu_bench [--lives 200] [--network none] RUN_DIRECTORY [RUN_DIRECTORY]

Each must be an installation that runs (`make up` with BULKHEAD_RUN), with busybox in its store. The services are put
into cgroups of cpuacct (v1) meanwhile, whose counters hold what forked and ended too: `shims` are the zygote, its
spares and all that launches; `containers` what the stage and the payload took. Wall clock beside it, for one client.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bulkhead.model.instance import Instance
from tests.bench.engine_client import EngineClient
from tests.integration.supervisor.spares import spares_of

ROOT = Path("/sys/fs/cgroup/cpuacct")
SERVICES = ("api", "manager", "supervisor")
STEPS = ("create", "start", "wait", "remove", "exec")
# What goes on behind an answer (the next spare, the removal of files) belongs to the step that caused it.
SETTLE = 0.03


@dataclass
class Subject:
    """One installation: its counters, and what was measured."""

    run: Path
    groups: dict[str, Path] = field(default_factory=dict)
    spent: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def client(self) -> EngineClient:
        return EngineClient(self.run / "docker.sock")

    def counters(self) -> dict[str, int]:
        """Nanoseconds of processor time so far."""
        return {name: int((group / "cpuacct.usage").read_text()) for name, group in self.groups.items()}

    @contextlib.contextmanager
    def step(self, name: str, settle: float) -> Iterator[None]:
        before, begun = self.counters(), time.perf_counter()
        yield
        self.took[name].append((time.perf_counter() - begun) * 1e3)
        time.sleep(settle)
        for part, value in self.counters().items():
            self.spent[name, part].append((value - before[part]) / 1e6)


@contextlib.contextmanager
def accounted(subject: Subject) -> Iterator[None]:
    """The installation's processes in groups of their own while entered."""
    label = Instance(run=subject.run).label
    pids = {name: int((subject.run / f"{name}.pid").read_text()) for name in SERVICES}
    zygote = _zygote_of(pids["supervisor"])
    for name, members in {**{name: [pid] for name, pid in pids.items()}, "shims": zygote}.items():
        group = subject.groups[name] = ROOT / f"bench-{label}-{name}"
        group.mkdir(exist_ok=True)
        for member in members:
            (group / "cgroup.procs").write_text(str(member))
    subject.groups["containers"] = ROOT / label
    subject.groups["containers"].mkdir(exist_ok=True)
    try:
        yield
    finally:
        for name in (*SERVICES, "shims"):
            for pid in (subject.groups[name] / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    (ROOT / "cgroup.procs").write_text(pid)
            with contextlib.suppress(OSError):
                subject.groups[name].rmdir()


def _zygote_of(supervisor: int) -> list[int]:
    """The zygote and the spares that wait, of which some have been shims before and will be again."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    zygotes = [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().startswith("bulkhead-zyg")]
    return zygotes + [spare for zygote in zygotes for spare in spares_of(zygote)]


def live(subject: Subject, network: str, settle: float) -> None:
    """One life of `true`."""
    client = subject.client()
    begun = time.perf_counter()
    with subject.step("create", settle):
        container = client.create("busybox", ["true"], NetworkMode=network)
    with subject.step("start", settle):
        client.start(container)
    with subject.step("wait", settle):
        client.wait(container)
    with subject.step("remove", settle):
        client.remove(container)
    subject.took["life"].append((time.perf_counter() - begun) * 1e3 - 4e3 * settle)


def execute(subject: Subject, container: str, settle: float) -> None:
    with subject.step("exec", settle):
        subject.client().exec(container, ["true"])


def measure(subjects: list[Subject], lives: int, network: str, settle: float) -> None:
    """Turn by turn, so that what else goes on hits all alike; a first few lives warm everything."""
    for number in range(lives + 5):
        order = subjects if number % 2 else subjects[::-1]
        for subject in order:
            live(subject, network, settle)
        if number == 4:
            for subject in subjects:
                subject.spent.clear()
                subject.took.clear()
    sleepers = {}
    for subject in subjects:
        sleepers[subject.run] = subject.client().create("busybox", ["sleep", "3600"], NetworkMode="none")
        subject.client().start(sleepers[subject.run])
    try:
        for number in range(lives):
            for subject in subjects if number % 2 else subjects[::-1]:
                execute(subject, sleepers[subject.run], settle)
    finally:
        for subject in subjects:
            subject.client().remove(sleepers[subject.run])


def report(subjects: list[Subject]) -> str:
    """Mean milliseconds of processor time, by step and process; medians of the wall clock."""
    parts = (*SERVICES, "shims", "containers")
    lines = []
    for subject in subjects:
        lines += [f"\n{subject.run}", "", f"| cpu ms | {' | '.join(parts)} | sum | wall ms |", "|---|" + "--:|" * 7]
        total: dict[str, float] = defaultdict(float)
        for step in STEPS:
            row = {part: _trimmed(subject.spent[step, part]) for part in parts}
            if step != "exec":
                for part, value in row.items():
                    total[part] += value
            lines.append(_row(step, row, statistics.median(subject.took[step])))
        lines.append(_row("life", total, statistics.median(subject.took["life"])))
    if len(subjects) == 2:
        for step in ("life", *STEPS):
            first, second = (subject.took[step] for subject in subjects)
            ratio = statistics.median(a / b for a, b in zip(first, second, strict=True))
            lines.append(f"{step}: wall clock of the first is {ratio:.2f} of the second's (median of pairs)")
    return "\n".join(lines)


def _trimmed(values: list[float]) -> float:
    """Mean without the highest and lowest tenth."""
    ordered = sorted(values)
    cut = len(ordered) // 10
    return statistics.fmean(ordered[cut : len(ordered) - cut])


def _row(step: str, row: dict[str, float], wall: float) -> str:
    cells = [f"{value:.2f}" for value in (*row.values(), sum(row.values()), wall)]
    return f"| {step} | {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lives", type=int, default=200)
    parser.add_argument("--network", default="none")
    parser.add_argument("--settle", type=float, default=SETTLE, help="seconds to wait after each step")
    parser.add_argument("run", type=Path, nargs="+")
    options = parser.parse_args()
    subjects = [Subject(run) for run in options.run]
    with contextlib.ExitStack() as stack:
        for subject in subjects:
            stack.enter_context(accounted(subject))
        measure(subjects, options.lives, options.network, options.settle)
    sys.stdout.write(report(subjects) + f"\n\nload {os.getloadavg()[0]:.1f}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
