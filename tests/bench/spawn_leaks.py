"""What stays in the parent of many launches: descriptors, zombies, memory.

python -m tests.bench.spawn_leaks [launches]     10,000 unless told; every eighth fails, every eighth joins a container
"""

from __future__ import annotations

import contextlib
import gc
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bulkhead.errors import LaunchFailed
from bulkhead.runtime import launch
from bulkhead.runtime.rootfs import StdioFds
from tests.support.containers import Box, ended
from tests.support.descriptors import open_descriptors

_WARM = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a process holds; memory in KiB, private and resident."""

    descriptors: int
    children: int
    memory: int


def held() -> Held:
    """Of this process, now, without what waits to be collected."""
    gc.collect()
    children = Path("/proc/self/task").iterdir()
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    private = sum(int(line.split()[1]) for line in rollup if line.startswith(("Private_Clean:", "Private_Dirty:")))
    return Held(
        descriptors=len(open_descriptors()),
        children=sum(len((task / "children").read_text().split()) for task in children),
        memory=private,
    )


def launches(box: Box, count: int) -> None:
    """So many processes brought up and ended, each in a way that its number tells."""
    rootfs = box.rootfs()
    task, config = box.start("/bin/sleep", "86400")
    failing, passing = box.config("/no/such/program"), box.config("/bin/true")
    further = {**config["process"], "args": ["/bin/true"]}
    for number in range(count):
        if number % 8 == 0:
            with contextlib.suppress(LaunchFailed):
                launch.create(container_id="leak", config=failing, rootfs=rootfs, stdio=StdioFds())
        elif number % 8 == 1:
            ended(launch.exec_(task=task, config=config, process=further, stdio=StdioFds()))
        else:
            made = box.create(passing, rootfs=rootfs)
            made.start()
            box.finish(made)
    box.kill(task)


def grown(count: int, rounds: int = 1) -> Iterator[tuple[Held, Held]]:
    """What was held before and after `count` launches, in so many rounds, behind some to get warm."""
    with tempfile.TemporaryDirectory(prefix="bh-leak-", dir="/tmp") as base:
        box = Box(Path(base))
        launch.prepare()
        launches(box, _WARM)
        for _ in range(rounds):
            before = held()
            launches(box, count)
            yield before, held()
        box.close()


def main() -> int:
    """As the module says."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    begun = time.monotonic()
    ((before, after),) = grown(count)
    print(f"{count} launches in {time.monotonic() - begun:.0f} s\nbefore {before}\nafter  {after}")
    return int((before.descriptors, before.children) != (after.descriptors, after.children))


if __name__ == "__main__":
    sys.exit(main())
