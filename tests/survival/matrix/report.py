"""What the matrix has found, as a table: `python -m tests.survival.matrix.report FILE...`, of what --json wrote."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.survival.matrix.cells import Result
from tests.survival.matrix.columns import COLUMNS, NO_FAULT, SECOND_RECOVERY

# Nothing was dead: that was no recovery.
_NO_RECOVERY_SECONDS = 0.01


def told(results: Sequence[Result], heading: str) -> str:
    """The table, why some have no cell, the count, the times of recovery, and each cell that is not green."""
    red = [f"{each.row}, {each.column}, {each.point}: {'; '.join(each.wrong)}" for each in results if not each.green]
    legend = [f"n/a {number}: {why}" for why, number in _reasons(results).items()]
    cells = [each for each in results if not each.lacking]
    return "\n".join([heading, table(results), *legend, _count(cells), _recovery(cells), *red])


def _reasons(results: Sequence[Result]) -> dict[str, int]:
    """Numbered from 1."""
    return {why: number for number, why in enumerate(sorted({each.lacking for each in results if each.lacking}), 1)}


def table(results: Sequence[Result]) -> str:
    """Rows by columns: cells green of cells run."""
    reasons = _reasons(results)
    rows = list(dict.fromkeys(result.row for result in results))
    columns = [name for name in (*COLUMNS, NO_FAULT, SECOND_RECOVERY) if any(each.column == name for each in results)]
    width = max((len(row) for row in rows), default=0) + 1
    lines = [" " * width + " ".join(f"{name:>16}" for name in columns)]
    for row in rows:
        cells = []
        for column in columns:
            found = [each for each in results if (each.row, each.column) == (row, column)]
            cells.append(f"{_cell(found, reasons):>16}")
        lines.append(f"{row:<{width}}" + " ".join(cells))
    return "\n".join(lines)


def _cell(found: Sequence[Result], reasons: Mapping[str, int]) -> str:
    ran = [each for each in found if not each.lacking]
    if ran:
        return f"{sum(each.green for each in ran)}/{len(ran)}"
    return f"n/a {reasons[found[0].lacking]}" if found else "-"


def _count(results: Sequence[Result]) -> str:
    green = sum(each.green for each in results)
    late = sum(not each.passed for each in results)
    seconds = sum(each.seconds for each in results)
    return f"{len(results)} cells, {green} green, {late} not passed, in {seconds / 60:.0f} minutes"


def _recovery(results: Sequence[Result]) -> str:
    times = sorted(each.recovery for each in results if each.recovery > _NO_RECOVERY_SECONDS)
    if len(times) < 2:
        return "no recovery"
    most = statistics.quantiles(times, n=100, method="inclusive")[98]
    return (
        f"{len(times)} recoveries, process start included: median {statistics.median(times):.2f} s, "
        f"p99 {most:.2f} s, most {times[-1]:.2f} s"
    )


def main(files: Sequence[str]) -> int:
    """One table of several runs, such as of halves of the rows."""
    read = [json.loads(Path(file).read_bytes()) for file in files]
    results = [Result(**each) for file in read for each in file["results"]]
    print(told(results, "; ".join(dict.fromkeys(file["selection"] for file in read))))
    return int(any(not each.green for each in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
