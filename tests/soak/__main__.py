"""`python -m tests.soak SECONDS [SEED]`: a storm of operations and deaths, then steady cycles, on an engine of its own.

Ends with 1, and says with which seed, when the engine's account differs from the model or when a process grows.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import secrets
import sys
import time
from collections.abc import Sequence

from tests.soak.slopes import ALLOWED, Sampler
from tests.soak.steady import steady
from tests.soak.storm import Storm, Wrong
from tests.support.engine import private_engine

STORM_SHARE = 0.6


def main(seconds: float, seed: int) -> int:
    """Soak; the exit status."""
    print(f"seed {seed}: storm for {seconds * STORM_SHARE:.0f} s", flush=True)
    with private_engine() as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox")
        storm, began = Storm(engine, seed), time.monotonic()
        try:
            storm.run(seconds * STORM_SHARE)
        except Wrong as wrong:
            print(wrong)
            return 1
        counted = ", ".join(f"{count} {what}" for what, count in sorted(storm.done.items()))
        print(f"{len(storm.story)} steps in {time.monotonic() - began:.0f} s: {counted}", flush=True)
        sampler = Sampler(engine.instance)
        count = steady(engine, seconds * (1 - STORM_SHARE), sampler)
        print(f"{count} cycles; what 1000 cycles add, +- its standard error:")
        for (process, figure), line in sorted(sampler.lines().items()):
            print(
                f"  {process:<34} {figure:<8} {line.slope:10.2f} +- {line.error:.2f} (at most {ALLOWED[figure][0]:g})"
            )
        verdict = sampler.verdict()
        print("\n".join(verdict) or "nothing grows")
        return 1 if verdict else 0


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seconds", type=_seconds, metavar="SECONDS")
    parser.add_argument("seed", type=int, metavar="SEED", nargs="?", default=secrets.randbelow(10**6))
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{text} is no number of seconds")


if __name__ == "__main__":
    asked = options(sys.argv[1:])
    sys.exit(main(asked.seconds, asked.seed))
