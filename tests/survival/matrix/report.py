"""What the matrix has found, as a table: `python -m tests.survival.matrix.report FILE...`, of what --json wrote."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.survival.matrix.cells import COLUMNS, NO_FAULT, SECOND_RECOVERY, Result

# Nothing was dead: that was no recovery.
_NO_RECOVERY_SECONDS = 0.01


def told(results: Sequence[Result]) -> str:
    """The table, the count, the times of recovery, and each cell that is not green."""
    red = [f"{each.row}, {each.column}, {each.point}: {'; '.join(each.wrong)}" for each in results if not each.green]
    return "\n".join([table(results), _count(results), _recovery(results), *red])


def table(results: Sequence[Result]) -> str:
    """Rows by columns: cells green of cells run."""
    rows = list(dict.fromkeys(result.row for result in results))
    columns = [name for name in (*COLUMNS, NO_FAULT, SECOND_RECOVERY) if any(each.column == name for each in results)]
    width = max((len(row) for row in rows), default=0) + 1
    lines = [" " * width + " ".join(f"{name:>16}" for name in columns)]
    for row in rows:
        cells = []
        for column in columns:
            found = [each for each in results if (each.row, each.column) == (row, column)]
            green = sum(each.green for each in found)
            cells.append(f"{f'{green}/{len(found)}' if found else '-':>16}")
        lines.append(f"{row:<{width}}" + " ".join(cells))
    return "\n".join(lines)


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
    results = [Result(**each) for file in files for each in json.loads(Path(file).read_bytes())]
    print(told(results))
    return int(any(not each.green for each in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
