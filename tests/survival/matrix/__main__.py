"""The crash matrix: `python -m tests.survival.matrix [--rows a,b] [--columns c,d] [--json FILE]` prints a table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.support.engine import private_engine
from tests.survival.matrix.cells import COLUMNS, NO_FAULT, Matrix, Result
from tests.survival.matrix.host import Host
from tests.survival.matrix.machine import machine
from tests.survival.matrix.report import told
from tests.survival.matrix.rows import ROWS


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
                    options.json.write_text(json.dumps([asdict(each) for each in results], indent=1))
    finally:
        print(told(results))
    return int(any(not each.green for each in results))


def _run(matrix: Matrix, options: argparse.Namespace) -> Iterator[Result]:
    """Every cell's result, and what else is wrong."""
    count = 0
    for row in options.rows:
        for result in _row(matrix, row, options):
            count += 1
            yield result
    if not count:
        yield Result(row="all", column=NO_FAULT, point=options.point, wrong=["there is no such cell"])
    yield matrix.recovered()


def _row(matrix: Matrix, row: str, options: argparse.Namespace) -> Iterator[Result]:
    unharmed = matrix.unharmed(row)
    if not unharmed.green:
        yield unharmed
        return
    for column in options.columns:
        part, parts = options.part
        for number, passed in enumerate(matrix.cells(row, column), 1):
            if options.point in str(passed) and number % parts == part % parts:
                yield matrix.run(row, column, passed)


def _tell(result: Result) -> None:
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
    parser.add_argument("--columns", type=_names(COLUMNS), default=list(COLUMNS))
    parser.add_argument("--point", default="", help="only failpoints whose name has this in it")
    parser.add_argument(
        "--part", type=_part, default=(1, 1), help="i/n: only each n-th cell of a column, from the i-th on"
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


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
