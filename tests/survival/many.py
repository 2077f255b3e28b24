"""How long a manager takes to know its containers again: `python -m tests.survival.many [STOPPED] [RUNNING]`.

Between its own words "starting" and "recovered", so without the interpreter's start; then the same once more, since a
second recovery must change nothing. It may say "ready" before: nobody waits for shims that keep silent.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from tests.support.engine import Engine, private_engine
from tests.support.eventually import until
from tests.survival.matrix import facts
from tests.survival.matrix.host import Host
from tests.survival.matrix.machine import machine

RUNS = 3
_AT_ONCE = 4


def main(argv: Sequence[str]) -> int:
    """Make the containers, kill the manager again and again; 1 when a recovery changed anything."""
    stopped, running = map(int, argv) if len(argv) == 2 else (950, 50)
    with machine(boots=False) as on, private_engine() as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox")
        host = Host(engine, on)
        _fill(host, stopped, running)
        before = facts.snapshot(engine)
        taken = [_recovered(engine) for _ in range(RUNS)]
        changed = facts.changed(before, facts.snapshot(engine))
        wrong = facts.settled(engine)
        print(f"{stopped} stopped and {running} running: recovered in {', '.join(f'{each:.2f}' for each in taken)} s")
        print("nothing changed" if not changed and not wrong else f"changed: {changed} {wrong}", flush=True)
    return int(bool(changed or wrong))


def _fill(host: Host, stopped: int, running: int) -> None:
    turns = threading.Lock()

    def one(run: bool) -> None:
        with turns:
            name = host.name()
        (host.run if run else host.create)(name, "sleep", "100000")

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(one, [True] * running + [False] * stopped))


def _recovered(engine: Engine) -> float:
    engine.kill("manager")
    engine.start("manager")
    until(lambda: "recovered" in _moments(engine))
    moments = _moments(engine)
    return (moments["recovered"] - moments["starting"]).total_seconds()


def _moments(engine: Engine) -> dict[str, datetime]:
    """When the manager said each of its words last, in its present life."""
    lines = [json.loads(line) for line in engine.daemons.log("manager").read_text().splitlines() if '"event":' in line]
    said = [(str(line["event"]), datetime.fromisoformat(line["timestamp"])) for line in lines]
    begun = max(number for number, (word, _) in enumerate(said) if word == "starting")
    return dict(said[begun:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
