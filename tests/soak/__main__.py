"""`python -m tests.soak SECONDS [SEED]`: a storm of operations and deaths, then steady work, on an engine of its own.

Ends with 1, and says with which seed, when the engine's account differs from the model or when a process grows. The
same seed gives the same operations and deaths in the same order.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import secrets
import sys
import time
from collections.abc import Sequence

from tests.soak.steady import Steady, Stopped
from tests.soak.storm import Storm, Wrong
from tests.support.engine import Engine, private_engine


def main(asked: argparse.Namespace) -> int:
    """Soak; the exit status."""
    with private_engine() as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox")
        try:
            _storm(engine, asked)
            return _steady(engine, asked)
        except (Wrong, Stopped) as wrong:
            print(wrong)
            return 1


def _storm(engine: Engine, asked: argparse.Namespace) -> None:
    print(f"seed {asked.seed}: storm for {asked.seconds:.0f} s", flush=True)
    storm, began = Storm(engine, asked.seed), time.monotonic()
    storm.run(asked.seconds)
    counted = ", ".join(f"{count} {what}" for what, count in sorted(storm.done.items()))
    print(f"{len(storm.story)} steps in {time.monotonic() - began:.0f} s: {counted}", flush=True)


def _steady(engine: Engine, asked: argparse.Namespace) -> int:
    print(f"steady: {asked.cycles} start/stop cycles, then {asked.execs} execs, {asked.clients} clients", flush=True)
    work = Steady(
        engine=engine, cycles=asked.cycles, execs=asked.execs, clients=asked.clients, limit=asked.limit, say=sys.stdout
    )
    try:
        work.run()
    finally:
        for part, sampler in work.samplers.items():
            print(f"what each of {work.done[part]} {part}s adds (bytes, or things), after the warm-up:")
            print("\n".join(sampler.table()))
    verdict = work.verdict()
    print("\n".join(verdict) or "nothing grows")
    return 1 if verdict else 0


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seconds", type=_seconds, metavar="SECONDS", help="of the storm")
    parser.add_argument("seed", type=int, metavar="SEED", nargs="?", default=secrets.randbelow(10**6))
    parser.add_argument("--cycles", type=_count, default=1500, help="start/stop cycles after the storm (%(default)s)")
    parser.add_argument("--execs", type=_count, default=10000, help="execs after them (%(default)s)")
    parser.add_argument("--clients", type=_count, default=4, help="at once (%(default)s)")
    parser.add_argument(
        "--limit", type=_seconds, default=math.inf, help="seconds for cycles and execs; what was not done is told"
    )
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{text} is no number of seconds")


def _count(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is no count")


if __name__ == "__main__":
    sys.exit(main(options(sys.argv[1:])))
