"""One sitting: the engines that take turns, and every sample that was taken of each row."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from tests.bench import child
from tests.bench.engines import Engine, bulkhead, dockerd

# Row -> who -> samples in the order of their rounds. The unit stands at the row's end, in brackets.
Samples = dict[str, dict[str, list[float]]]


@dataclass(kw_only=True)
class Sitting:
    """`quick` asks for fewer rounds and smaller sizes; `patience` is for the rounds of one bench, seconds."""

    quick: bool
    peers: bool
    stack: contextlib.ExitStack
    patience: float = float("inf")
    samples: Samples = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    @cached_property
    def engines(self) -> list[Engine]:
        """Bulkhead first; started when they are first asked for. One that does not start is told of, once."""
        found = [self.stack.enter_context(bulkhead())]
        if self.peers and shutil.which("dockerd"):
            try:
                found.append(self.stack.enter_context(dockerd()))
            except Exception as error:
                self.failed.append(f"dockerd: {type(error).__name__}: {error}")
        return found

    def rounds(self, full: int, quick: int, share: float = 1.0) -> Iterator[int]:
        """Numbers of rounds; of the full number no more than this `share` of the patience has time for."""
        end = time.monotonic() + self.patience * share
        for number in range(quick if self.quick else full):
            if number >= quick and time.monotonic() > end:
                return
            yield number

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def record(self, row: str, who: str, value: float) -> None:
        self.samples.setdefault(row, {}).setdefault(who, []).append(value)

    @contextlib.contextmanager
    def cpu(self, row: str, engine: Engine, times: int = 1) -> Iterator[None]:
        """Record the engine's CPU time of what is done meanwhile `times` times, milliseconds each."""
        before = engine.group.milliseconds
        yield
        self.record(row, engine.name, (engine.group.milliseconds - before) / times)

    def merge(self, samples: Samples) -> None:
        for row, by_who in samples.items():
            for who, values in by_who.items():
                self.samples.setdefault(row, {}).setdefault(who, []).extend(values)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Some rows that are measured together."""

    name: str
    about: str
    run: Callable[[Sitting], None]


def apart(module: str, full: int, quick: int) -> Callable[[Sitting], None]:
    """A bench in a process of its own, which prints its samples as JSON; its arguments: how many rounds, --json."""

    def run(sitting: Sitting) -> None:
        command = [sys.executable, "-m", f"tests.bench.{module}", str(sitting.size(full, quick)), "--json"]
        sitting.merge(json.loads(child.output(command).splitlines()[-1]))  # before it: what the services log

    return run
