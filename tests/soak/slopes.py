"""Lines through what each process holds: a slope that is surely above nothing is a leak."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bulkhead.ctl import remains
from bulkhead.model.instance import SERVICES, Instance
from tests.support.eventually import until

# How often everything is looked at in one part.
SAMPLES = 180
# Caches, allocators and rings of what was last fill at the beginning.
_WARM_UP = 0.4
# Samples that follow each other are alike (an allocator grows by steps): their means over so many stretches are
# nearly independent, and what Student's t is for.
_BLOCKS = 20
# Two-sided 99 % of Student's t with _BLOCKS - 2 degrees of freedom: some eighty lines are judged at once.
_T = 2.878
# Growth over a whole part that is not told from none: what one step of an allocator is, a descriptor more or less.
RESOLUTION = {"rss": 512 * 1024.0, "pss_anon": 512 * 1024.0, "bytes": 512 * 1024.0, "files": 8.0}
_COUNT_RESOLUTION = 1.5
_KIB = 1024
_MACHINE = "(run and data)"
_MODELS = ("bulkhead-model", "bulkhead-shim: rehearsal")
# Shown and not judged: the services' logs and the journal of events grow until they are full, which has other tests.
JOURNALS = "journals"
SETTLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A fitted line: what one operation adds, half its 99 % interval, and how many operations it is seen over.

    `step` is the most that was added between two stretches that have one between them.
    """

    slope: float
    margin: float
    span: float
    step: float

    def resolution(self, figure: str) -> float:
        """The least slope that is told from none."""
        return RESOLUTION.get(figure, _COUNT_RESOLUTION) / self.span

    def grows(self, figure: str) -> bool:
        """Surely, by more than is resolved, and not by one step, which a table makes that grows for once."""
        surely = self.slope - self.margin > 0 and self.slope > self.resolution(figure)
        return figure != JOURNALS and surely and self.step < self.slope * self.span / 2


def fit(samples: Sequence[tuple[float, float]]) -> Line | None:
    """Least squares through the means of (operations, figure) in stretches after the warm-up; None of too few."""
    kept = samples[math.ceil(len(samples) * _WARM_UP) :]
    length = len(kept) // _BLOCKS
    if not length:
        return None
    kept = kept[len(kept) - length * _BLOCKS :]
    blocks = [kept[at : at + length] for at in range(0, len(kept), length)]
    xs = [statistics.fmean(x for x, _ in block) for block in blocks]
    ys = [statistics.fmean(y for _, y in block) for block in blocks]
    slope, at_zero = statistics.linear_regression(xs, ys)
    residue = sum((y - at_zero - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    spread = statistics.variance(xs) * (_BLOCKS - 1)
    error = math.sqrt(residue / (_BLOCKS - 2) / spread)
    step = max(later - earlier for earlier, later in zip(ys, ys[2:], strict=False))
    return Line(slope=slope, margin=_T * error, span=kept[-1][0] - kept[0][0], step=step)


@dataclass(slots=True)
class Sampler:
    """Figures of every process of an installation, and of its directories, over operations."""

    instance: Instance
    series: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    _lasting: dict[int, str] = field(default_factory=dict)
    _at_first: int = 0
    _faults: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Those that are there now are looked at from now on; but for spares, who are there to be taken."""
        found = self._present()
        self._at_first = len(found)
        self._lasting = {
            pid: title.split(" /")[0]
            for pid, title in found.items()
            if title != "bulkhead-zygote" or found.get(_parent(pid), "").startswith("bulkhead-supervisor")
        }

    def end(self) -> None:
        """Nobody may be left of what has been since `begin`; who leaves gets a while."""
        try:
            until(lambda: len(self._present()) <= self._at_first, SETTLE_SECONDS)
        except AssertionError:
            now = Counter(title.split(" /")[0] for title in self._present().values())
            self._faults.append(f"{self._at_first} processes at first, and now {dict(now)}")

    def take(self, done: int) -> None:
        """Look at everything after so many operations."""
        tasks = self._tasks()
        for pid, title in list(self._lasting.items()):
            try:
                self._note(done, f"{title} ({pid})", {**_figures(pid), **tasks.get(title, {})})
            except OSError:
                self._faults.append(f"{title} ({pid}) died")
                del self._lasting[pid]
        self._note(done, _MACHINE, _directories(self.instance))

    def lines(self) -> dict[tuple[str, str], Line]:
        """By process and figure."""
        fitted = {key: fit(samples) for key, samples in self.series.items()}
        return {key: line for key, line in fitted.items() if line is not None}

    @property
    def grows(self) -> bool:
        """Whether anything seems to, of what was seen so far."""
        return any(line.grows(figure) for (_, figure), line in self.lines().items())

    def verdict(self) -> list[str]:
        """What grows, who died, who is left; where nothing could be fitted nothing is known, which is told too."""
        lines = self.lines()
        if not lines:
            return ["too few samples for a line: whether anything grows is not known"]
        return self._faults + [
            f"{process} gains {line.slope:.3g} +- {line.margin:.2g} {figure} in each"
            for (process, figure), line in lines.items()
            if line.grows(figure)
        ]

    def table(self) -> Iterator[str]:
        """A line of text for each process and figure: at the warm-up's end, at the end, the slope, its interval."""
        heads = f"{'held':>12} {'at last':>12} {'slope':>10} {'+- (99 %)':>10} {'resolved':>10}"
        yield f"  {'process':<36} {'figure':<8} {heads}"
        for (process, figure), line in sorted(self.lines().items()):
            samples = self.series[process, figure]
            held, last = samples[math.ceil(len(samples) * _WARM_UP)][1], samples[-1][1]
            told = f"{line.slope:>10.2g} {line.margin:>10.2g} {line.resolution(figure):>10.2g}"
            yield f"  {process:<36} {figure:<8} {held:>12,.0f} {last:>12,.0f} {told}{' GROWS' * line.grows(figure)}"

    def _note(self, done: int, process: str, figures: Mapping[str, float]) -> None:
        for figure, value in figures.items():
            self.series[process, figure].append((done, value))

    def _present(self) -> dict[int, str]:
        """By pid, but for those that sit for a zygote's likeness and soon end."""
        found = remains.processes(self.instance)
        return {pid: title for pid, title in found.items() if not title.startswith(_MODELS)}

    def _tasks(self) -> dict[str, dict[str, float]]:
        """How many asyncio tasks each service has, by its title; a shim and a zygote know none."""
        found = {}
        for service in SERVICES:
            told, holder = self.instance.stacks(service), self.instance.pid_file(service)
            told.unlink(missing_ok=True)
            os.kill(int(holder.read_text()), signal.SIGUSR1)
            until(told.exists)
            found[f"bulkhead-{service}"] = {"tasks": float(told.read_text().split()[0])}
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stat:
    """What of proc_pid_stat(5) is asked for here."""

    state: str
    parent: int
    threads: int


def _stat(pid: int) -> _Stat:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return _Stat(state=fields[0], parent=int(fields[1]), threads=int(fields[17]))


def _parent(pid: int) -> int:
    """Zero of one that has ended."""
    with contextlib.suppress(OSError):
        return _stat(pid).parent
    return 0


def _figures(pid: int) -> dict[str, float]:
    place = Path("/proc", str(pid))
    rollup = dict(line.split(":", 1) for line in (place / "smaps_rollup").read_text().splitlines()[1:])
    return {
        "rss": int(rollup["Rss"].split()[0]) * _KIB,
        # Files' pages are shared with other programs of the machine, and not theirs alone when those end.
        "pss_anon": sum(int(rollup[each].split()[0]) for each in ("Pss_Anon", "Pss_Shmem")) * _KIB,
        "fds": len(os.listdir(place / "fd")),  # noqa: PTH208
        "threads": _stat(pid).threads,
        "zombies": sum(map(_is_zombie, _children(place))),
    }


def _children(place: Path) -> Iterator[int]:
    for thread in (place / "task").iterdir():
        with contextlib.suppress(OSError):
            yield from map(int, (thread / "children").read_text().split())


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return _stat(pid).state == "Z"
    return False


def _directories(instance: Instance) -> dict[str, float]:
    """Entries of the run and data directories and their size; and cgroups, in each hierarchy."""
    entries, journals, size = 0, 0, 0
    for top in (instance.run, instance.data):
        for directory, names, files in os.walk(top):
            entries += len(names) + len(files)
            for name in files:
                with contextlib.suppress(OSError):
                    blocks = os.lstat(f"{directory}/{name}").st_blocks * 512
                    if directory == f"{instance.run}/log" or name.startswith("bulkhead.db"):
                        journals += blocks
                    else:
                        size += blocks
    cgroups = sum(len(names) for parent in remains.cgroup_parents(instance) for _, names, _ in os.walk(parent))
    return {"files": entries, "bytes": size, JOURNALS: journals, "cgroups": cgroups}
