"""Every figure of the engine beside its peers, in one sitting on one machine.

    python -m tests.bench [--quick] [--patience SECONDS] [--rows NAME,...] [--alone] [--json FILE] [--plot FILE]

Prints a table and writes the samples and a plot. Peers are measured where they are installed: dockerd,
docker-registry, runc, crun, podman. All that is started is taken away again, after Ctrl-C too.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import pytest

from tests.bench import (
    archive_bench,
    cli_bench,
    engine_bench,
    image_bench,
    many_bench,
    network_bench,
    registry_bench,
    report,
    runtime_bench,
    runtime_command_bench,
    shim_bench,
    slope_bench,
    startup_bench,
    throughput_bench,
    wedged_bench,
)
from tests.bench.sitting import Bench, Sitting

BENCHES: tuple[Bench, ...] = (
    *engine_bench.BENCHES,
    *cli_bench.BENCHES,
    *many_bench.BENCHES,
    *slope_bench.BENCHES,
    *wedged_bench.BENCHES,
    *image_bench.BENCHES,
    *archive_bench.BENCHES,
    *registry_bench.BENCHES,
    *startup_bench.BENCHES,
    *runtime_bench.BENCHES,
    *runtime_command_bench.BENCHES,
    *network_bench.BENCHES,
    *throughput_bench.BENCHES,
    *shim_bench.BENCHES,
)


def main() -> int:
    options = _options(sys.argv[1:])
    chosen = [each for each in BENCHES if each.name in options.rows]
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    failed = []
    with contextlib.ExitStack() as stack:
        sitting = Sitting(quick=options.quick, peers=not options.alone, stack=stack, patience=options.patience)
        try:
            for bench in chosen:
                failed += _run(bench, sitting)
        except KeyboardInterrupt:
            failed.append("broken off")
            sys.stderr.write("broken off; cleaning up\n")
        failed += sitting.failed
        _show(sitting, options)
    for each in failed:
        sys.stderr.write(f"failed: {each}\n")
    return 1 if failed else 0


def _run(bench: Bench, sitting: Sitting) -> list[str]:
    """A bench that fails is told of at the end; the others are measured all the same."""
    sys.stderr.write(f"{bench.name} ... ")
    sys.stderr.flush()
    begun = time.monotonic()
    try:
        bench.run(sitting)
    except (Exception, pytest.skip.Exception) as error:  # the latter, of the tests' own helpers, is no Exception
        sys.stderr.write(f"failed: {error}\n")
        return [f"{bench.name}: {type(error).__name__}: {error}"]
    sys.stderr.write(f"{time.monotonic() - begun:.0f} s\n")
    return []


def _show(sitting: Sitting, options: argparse.Namespace) -> None:
    sys.stdout.write(f"{report.table(sitting.samples)}\n\n{report.machine()}\n")
    if sitting.samples:
        report.save(sitting.samples, options.json)
        report.plot(sitting.samples, options.plot)
        slopes = options.plot.with_suffix(f".slopes{options.plot.suffix}")
        report.plot_slopes(sitting.samples, slopes)
        sys.stdout.write(f"samples: {options.json}, plots: {options.plot}, {slopes}\n")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """The first ends the measuring, what comes later must not end the cleaning up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; ends the program when it names what there is not."""
    parser, names = _parser(), [each.name for each in BENCHES]
    options = parser.parse_args(arguments)
    options.rows = options.rows.split(",") if options.rows else names
    if unknown := sorted({*options.rows} - {*names}):
        parser.error(f"no rows {', '.join(unknown)}: there are {', '.join(names)}")
    return options


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {each.name:10} {each.about}" for each in BENCHES)
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=f"{__doc__}\nrows:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller sizes: under six minutes")
    parser.add_argument(
        "--patience",
        metavar="SECONDS",
        type=float,
        default=180,
        help="what a bench's rounds may take, if they are more than with --quick (%(default)s)",
    )
    parser.add_argument("--rows", metavar="NAME,...", help="only these")
    parser.add_argument("--alone", action="store_true", help="without dockerd")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    parser.add_argument("--plot", type=Path, default=Path("build/bench.png"))
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
