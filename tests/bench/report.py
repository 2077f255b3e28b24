"""The samples of a sitting as a table in Markdown, as JSON and as a plot."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import time
from pathlib import Path
from typing import Any

from tests.bench.budgets import GOALS, Goal
from tests.bench.sitting import Samples

OURS = "bulkhead"
# Points of a line whose slope is a row: in JSON alone.
DETAIL = "CPU with "
# Slopes: near nothing, and below it by chance; no ratio means anything.
SLOPE = "more CPU for "
_BETTER_WHEN_MORE = ("/s]",)


def table(samples: Samples) -> str:
    """A line per row: our median and spread, the goal, each peer's median with the ratio."""
    lines = ["| row | bulkhead (p10-p90) | n | goal | beside it: median (times better are we) | goal met |"]
    lines.append("|---|--:|--:|---|---|---|")
    lines += [_line(row, by_who) for row, by_who in samples.items() if OURS in by_who and DETAIL not in row]
    return "\n".join(lines)


def machine() -> str:
    """Where and when."""
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return f"{os.cpu_count()} cores, Linux {platform.release()}, load {load}, {time.strftime('%Y-%m-%d %H:%M')}"


def save(samples: Samples, path: Path) -> None:
    """Everything, so that another can judge it."""
    rows = {row: _figures(row, by_who) for row, by_who in samples.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))


def ratio(row: str, ours: list[float], theirs: list[float]) -> float:
    """How many times better we are: the median of the rounds' ratios, where each round measured both."""
    if len(ours) == len(theirs):
        return statistics.median(_times_better(row, mine, other) for mine, other in zip(ours, theirs, strict=True))
    return _times_better(row, statistics.median(ours), statistics.median(theirs))


def _times_better(row: str, ours: float, theirs: float) -> float:
    above, below = (ours, theirs) if row.endswith(_BETTER_WHEN_MORE) else (theirs, ours)
    return above / below if below > 0 else float("inf")


def _line(row: str, by_who: dict[str, list[float]]) -> str:
    ours = by_who[OURS]
    beside = [
        f"{who} {figure(statistics.median(values))}" + ("" if SLOPE in row else f" ({ratio(row, ours, values):.1f}x)")
        for who, values in by_who.items()
        if who != OURS
    ]
    goal = GOALS.get(row)
    cells = [f"{figure(statistics.median(ours))} ({_spread(ours)})", str(len(ours)), _told(row, goal)]
    return f"| {row} | " + " | ".join([*cells, ", ".join(beside), _judged(row, by_who, goal)]) + " |"


def _told(row: str, goal: Goal | None) -> str:
    if goal is None:
        return ""
    budget = "" if goal.budget is None else f"{'>' if row.endswith(_BETTER_WHEN_MORE) else '<'} {goal.budget:g}"
    times = "" if goal.ratio is None else f"{goal.ratio:g}x {goal.peer}"
    return ", ".join(filter(None, (budget, times)))


def _judged(row: str, by_who: dict[str, list[float]], goal: Goal | None) -> str:
    if goal is None:
        return ""
    median, verdicts = statistics.median(by_who[OURS]), []
    if goal.budget is not None:
        kept = median >= goal.budget if row.endswith(_BETTER_WHEN_MORE) else median <= goal.budget
        verdicts.append("yes" if kept else "no")
    if goal.ratio is not None and goal.peer in by_who:
        verdicts.append("yes" if ratio(row, by_who[OURS], by_who[goal.peer]) >= goal.ratio else "no")
    return ", ".join(verdicts)


def _figures(row: str, by_who: dict[str, list[float]]) -> dict[str, Any]:
    ratios = {who: ratio(row, by_who[OURS], values) for who, values in by_who.items() if OURS in by_who and who != OURS}
    return {
        "samples": by_who,
        "medians": {who: statistics.median(each) for who, each in by_who.items()},
        "ratios": ratios,
    }


def figure(value: float) -> str:
    """Three digits or so."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _spread(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{figure(ordered[len(ordered) // 10])}-{figure(ordered[-1 - len(ordered) // 10])}"


def plot(samples: Samples, path: Path) -> None:
    """A bar per row and peer: how many times better we are, on a logarithmic scale; the goal as a mark."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [
        (row, who, ratio(row, by_who[OURS], values))
        for row, by_who in samples.items()
        for who, values in by_who.items()
        if who != OURS and OURS in by_who and SLOPE not in row and DETAIL not in row
    ]
    drawing, axes = pyplot.subplots(figsize=(13, 1 + 0.22 * len(bars)))
    shown = [(place, row, who, value) for place, (row, who, value) in enumerate(bars) if 0 < value < float("inf")]
    colours = {who: f"C{number}" for number, who in enumerate(sorted({who for _, who, _ in bars}))}
    axes.barh([each[0] for each in shown], [each[3] for each in shown], color=[colours[each[2]] for each in shown])
    for place, row, who, value in shown:
        goal = GOALS.get(row)
        axes.annotate(f" {value:.1f}x", (max(value, 1), place), va="center", fontsize=7)
        if goal is not None and goal.ratio is not None and goal.peer == who:
            axes.plot([goal.ratio] * 2, [place - 0.45, place + 0.45], color="black", linewidth=2)
    axes.set_yticks(range(len(bars)), [f"{row}  /  {who}" for row, who, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_xlabel(f"times better than the peer (black: the goal)    {machine()}", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.tight_layout()
    drawing.savefig(path, dpi=110)


def lines(samples: Samples) -> dict[str, dict[tuple[str, str], list[tuple[int, float]]]]:
    """The points that slopes were fitted through: of what -> (operation, who) -> (how many, CPU milliseconds)."""
    found: dict[str, dict[tuple[str, str], list[tuple[int, float]]]] = {}
    for row, by_who in samples.items():
        if point := re.fullmatch(rf"(.+), {DETAIL}(\d+) (.+) \[ms\]", row):
            for who, values in by_who.items():
                line = found.setdefault(point[3], {}).setdefault((point[1], who), [])
                line.append((int(point[2]), statistics.median(values)))
    return found


def plot_slopes(samples: Samples, path: Path) -> None:
    """A drawing for each kind of thing there may be many of: an operation's CPU time by how many there are."""
    drawn = lines(samples)
    if not drawn:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawing, grid = pyplot.subplots(1, len(drawn), figsize=(5 * len(drawn), 5), squeeze=False)
    for axes, (kind, by_line) in zip(grid[0], drawn.items(), strict=True):
        colours = {
            operation: f"C{number}" for number, operation in enumerate(dict.fromkeys(name for name, _ in by_line))
        }
        for (operation, who), points in by_line.items():
            ours = who == OURS
            style = {"linestyle": "-" if ours else ":", "label": operation if ours else None}
            axes.plot(*zip(*points, strict=True), marker=".", color=colours[operation], **style)
        axes.set(xscale="log", yscale="log", xlabel=kind, ylabel="CPU of the engine [ms]")
        axes.legend(fontsize=7)
    drawing.suptitle(f"{OURS}: lines; peers: dots    {machine()}", fontsize=8)
    drawing.tight_layout()
    drawing.savefig(path, dpi=110)
