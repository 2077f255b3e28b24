"""The command line of a bench that runs in a process of its own: how many rounds, and `--json` for the frame."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from tests.bench import report
from tests.bench.sitting import Samples


def run(measure: Callable[[int], Samples], about: str | None, rounds: int) -> None:
    """Measure, and print a table or the samples."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", type=int, nargs="?", default=rounds)
    parser.add_argument("--json", action="store_true", help="print the samples")
    options = parser.parse_args()
    samples = measure(options.rounds)
    sys.stdout.write(json.dumps(samples) if options.json else f"{report.table(samples)}\n\n{report.machine()}\n")
