"""The crash matrix, as a table: without options every row by every column that applies, at least once, and every
failpoint on every row's way, at least once; with --whole every column at every failpoint where it can strike; with
--sample so many of each row's that the first leaves out, by chance; with --again those that were not green.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.support.engine import private_engine
from tests.survival.matrix import selection
from tests.survival.matrix.cells import Matrix, Result
from tests.survival.matrix.columns import COLUMNS, NO_FAULT, SECOND_RECOVERY, Way
from tests.survival.matrix.host import Host
from tests.survival.matrix.machine import machine
from tests.survival.matrix.report import told
from tests.survival.matrix.rows import ROWS
from tests.survival.matrix.selection import Cell

_COLUMNS = [*COLUMNS, SECOND_RECOVERY]


def main() -> int:
    """Run the cells; 1 when one is not green. What there is by then is told however it ends."""
    options = _options(sys.argv[1:])
    results: list[Result] = []
    try:
        with machine(boots=True) as on, private_engine() as engine:
            engine.start()
            engine.seed()
            engine.pulled("busybox")
            host = Host(engine, on)
            host.place_bystander()
            for result in _run(Matrix(host), options):
                results.append(result)
                _tell(result)
                if options.json:
                    written = {"selection": _heading(options), "results": [asdict(each) for each in results]}
                    options.json.write_text(json.dumps(written, indent=1))
    finally:
        print(told(results, _heading(options)))
    return int(any(not each.green for each in results))


def _run(matrix: Matrix, options: argparse.Namespace) -> Iterator[Result]:
    """Every cell's result, and what else is wrong."""
    count = 0
    for row in options.rows:
        if options.again and not any(each.row == row for each in options.again):
            continue
        for result in _row(matrix, row, options):
            count += not result.lacking
            yield result
    if not count:
        yield Result(row="all", column=NO_FAULT, point=options.point, wrong=["there is no such cell"])


def _row(matrix: Matrix, row: str, options: argparse.Namespace) -> Iterator[Result]:
    unharmed = matrix.unharmed(row)
    if not unharmed.green:
        yield unharmed
        return
    way, (part, parts) = matrix.way(row), options.part
    chosen = _chosen(row, way, options)
    wanted = [(column, passed) for column, passed in chosen if column in options.columns]
    for each in _off_the_way(row, way, options):
        yield Result(row=row, column=each.column, point=each.point, wrong=["its failpoint is not passed any more"])
    place = options.rows.index(row)
    for number, (column, passed) in enumerate(wanted, place + 1):
        # Of what covers by its column: two parts trace a row each, and need not see the same.
        turn = place + _COLUMNS.index(column) if _is_covering(options) else number
        if options.point in str(passed) and turn % parts == part % parts:
            yield matrix.run(row, column, passed)
    if part == options.rows.index(row) % parts + 1:
        for column, why in selection.lacking(way).items():
            if column in options.columns and not options.again:
                yield Result(row=row, column=column, point="", lacking=why)
        if SECOND_RECOVERY in options.columns and (not options.again or _was_red(row, SECOND_RECOVERY, "", options)):
            yield matrix.recovered(row)


def _chosen(row: str, way: Way, options: argparse.Namespace) -> list[Cell]:
    if options.again:
        every = [(name, passed) for name, column in COLUMNS.items() for passed in column.struck(way)]
        return [(column, passed) for column, passed in every if _was_red(row, column, str(passed), options)]
    if options.sample:
        return selection.sample(row, way, options.sample, options.seed)
    return selection.covering(row, way) if _is_covering(options) else selection.whole(way)


def _was_red(row: str, column: str, point: str, options: argparse.Namespace) -> bool:
    return any((each.row, each.column, each.point) == (row, column, point) for each in options.again)


def _off_the_way(row: str, way: Way, options: argparse.Namespace) -> list[Result]:
    """Whose failpoint the operation has passed then, and does not now."""
    passed = {"", *map(str, way.points)}
    return [each for each in options.again if each.row == row and each.point not in passed]


def _is_covering(options: argparse.Namespace) -> bool:
    return not (options.whole or options.point or options.sample or options.again)


def _heading(options: argparse.Namespace) -> str:
    if options.again:
        return "again: cells that were not green"
    if options.sample:
        return f"{options.sample} cells a row by chance of those that the covering leaves out, seed {options.seed}"
    if options.whole or options.point:
        return "whole: every column at every failpoint where it can strike"
    return "covering: every row by every column that applies, and every failpoint on every row's way, at least once"


def _tell(result: Result) -> None:
    if result.lacking:
        return
    mark = "ok " if result.green else "BAD"
    aside = "" if result.passed else " (not passed)"
    print(f"{mark} {result.row:<14} {result.column:<16} {result.point:<32} {result.seconds:5.1f} s{aside}", flush=True)
    for each in result.wrong:
        print(f"      {each}", flush=True)
    if result.wrong and result.said:
        print(f"      (it said: {result.said})", flush=True)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.survival.matrix", description=__doc__)
    parser.add_argument("--rows", type=_names(ROWS), default=list(ROWS))
    parser.add_argument("--columns", type=_names(_COLUMNS), default=_COLUMNS)
    parser.add_argument("--whole", action="store_true", help="every cell: thousands")
    parser.add_argument("--point", default="", help="of the whole, only failpoints whose name has this in it")
    parser.add_argument("--sample", type=int, default=0, help="so many of each row's that the covering leaves out")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the sample")
    parser.add_argument(
        "--again", type=_red, default=[], metavar="FILE", help="those of what --json wrote that are red"
    )
    parser.add_argument("--part", type=_part, default=(1, 1), help="i/n: only each n-th cell, from the i-th on")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def _red(file: str) -> list[Result]:
    results = [Result(**each) for each in json.loads(Path(file).read_bytes())["results"]]
    if red := [each for each in results if not each.green]:
        return red
    raise argparse.ArgumentTypeError(f"{file}: every cell is green")


def _part(text: str) -> tuple[int, int]:
    part, parts = (int(each) for each in text.split("/"))
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text}: from 1/{parts} to {parts}/{parts}")
    return part, parts


def _names(known: Collection[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        if unknown := [each for each in text.split(",") if each not in known]:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}: there are {', '.join(known)}")
        return text.split(",")

    return names


if __name__ == "__main__":
    sys.exit(main())
