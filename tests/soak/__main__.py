"""`python -m tests.soak SECONDS [SEED]`: a storm of operations and deaths, then steady cycles, on an engine of its own.

Ends with 1, and says with which seed, when the engine's account differs from the model or when a process grows.
"""

from __future__ import annotations

import secrets
import sys
import time

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
        leaks = sampler.leaks()
        print("\n".join(leaks) or "nothing grows")
        return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(
        main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2] else secrets.randbelow(10**6))
    )
