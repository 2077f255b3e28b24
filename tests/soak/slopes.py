"""Lines through what each process holds: a slope that is surely above nothing is a leak."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bulkhead.ctl import remains
from bulkhead.model.instance import Instance

PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
# By figure: how much a thousand cycles may add, and the least growth in one run that is believed at all.
ALLOWED = {"rss_kib": (1500.0, 1024.0), "fds": (1.0, 4.0), "threads": (1.0, 3.0), "zombies": (0.5, 2.0)}
# Caches and allocators fill at the beginning.
_WARM_UP = 0.4
_FEWEST = 8
_SURE = 3.0  # standard errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A fitted line: what a thousand cycles add, its standard error, and how much was added in all."""

    slope: float
    error: float
    growth: float

    def leaks(self, figure: str) -> bool:
        allowed, least = ALLOWED[figure]
        return self.slope - _SURE * self.error > allowed and self.growth > least


def fit(samples: Sequence[tuple[float, float]]) -> Line | None:
    """Least squares through (cycle, figure) after the warm-up; None of too few."""
    kept = samples[int(len(samples) * _WARM_UP) :]
    if len(kept) < _FEWEST:
        return None
    xs, ys = [x for x, _ in kept], [y for _, y in kept]
    mid_x, mid_y = statistics.fmean(xs), statistics.fmean(ys)
    spread = sum((x - mid_x) ** 2 for x in xs)
    if spread == 0:
        return None
    slope = sum((x - mid_x) * (y - mid_y) for x, y in kept) / spread
    residue = sum((y - mid_y - slope * (x - mid_x)) ** 2 for x, y in kept)
    error = math.sqrt(residue / (len(kept) - 2) / spread)
    return Line(slope=slope * 1000, error=error * 1000, growth=slope * (xs[-1] - xs[0]))


@dataclass(slots=True)
class Sampler:
    """Figures of every process of an installation, by process, over cycles."""

    instance: Instance
    series: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def take(self, cycle: int) -> None:
        children = _zombies()
        for pid, title in remains.processes(self.instance).items():
            with contextlib.suppress(OSError):
                for figure, value in {**_figures(pid), "zombies": children.get(pid, 0)}.items():
                    self.series[f"{title.split(' /')[0]} ({pid})", figure].append((cycle, value))

    def lines(self) -> dict[tuple[str, str], Line]:
        """By process and figure, of those that lived long enough."""
        fitted = {key: fit(samples) for key, samples in self.series.items()}
        return {key: line for key, line in fitted.items() if line is not None}

    def verdict(self) -> list[str]:
        """What grows; where nothing could be fitted nothing is known, which is told too."""
        return self.leaks() if self.lines() else ["too few cycles for a line: whether anything grows is not known"]

    def leaks(self) -> list[str]:
        return [
            f"{process} gains {line.slope:.1f} +- {line.error:.1f} {figure} in 1000 cycles"
            for (process, figure), line in self.lines().items()
            if line.leaks(figure)
        ]


def _figures(pid: int) -> dict[str, float]:
    place = Path("/proc", str(pid))
    resident = int((place / "statm").read_text().split()[1]) * PAGE_KIB
    threads = int((place / "stat").read_text().rpartition(")")[2].split()[17])
    return {"rss_kib": resident, "fds": len(os.listdir(place / "fd")), "threads": threads}  # noqa: PTH208


def _zombies() -> dict[int, int]:
    """How many children of each process nobody has waited for."""
    found: dict[int, int] = defaultdict(int)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state == "Z":
                found[int(parent)] += 1
    return found
