"""What a process is doing right now: each operation with its object, phase, age and deadline.

    with in_flight.tracked("start", container_id, seconds=120) as operation:
        operation.phase = "running"

Told by `GET /debug/ops`, so that whoever waits can see what for.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any, Self

from bulkhead import telemetry

QUEUED, RUNNING = "queued", "running"


class Operation:
    """Something that has begun and not ended; `seconds` is how long it may take, 0 = as long as its peer stays.

    A context manager of its own, written out: what `contextlib` makes of a generator costs each request several times
    that, and what `dataclasses` make of defaults twice.
    """

    __slots__ = ("_among", "_number", "began", "name", "object", "phase", "request_id", "seconds")

    def __init__(
        self, among: dict[int, Operation], number: int, name: str, object: str, seconds: float, phase: str
    ) -> None:
        self._among = among
        self._number = number
        self.name = name
        self.object = object
        self.seconds = seconds
        self.phase = phase
        self.request_id = telemetry.request_id()
        self.began = time.monotonic()
        among[number] = self

    @property
    def age(self) -> float:
        """Seconds since it was asked for."""
        return time.monotonic() - self.began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        """It has ended."""
        self._among.pop(self._number, None)


class InFlight:
    """The operations of one process."""

    def __init__(self) -> None:
        self._operations: dict[int, Operation] = {}
        self._numbers = itertools.count()

    def __iter__(self) -> Iterator[Operation]:
        """Oldest first."""
        return iter(list(self._operations.values()))

    def tracked(self, name: str, object: str = "", *, seconds: float = 0.0, phase: str = RUNNING) -> Operation:
        """An operation of the current request, in flight from now until it is left."""
        return Operation(self._operations, next(self._numbers), name, object, seconds, phase)
