"""What a container's life may look like, and whether the engine's own account of it does."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


class State(enum.Enum):
    """As inspect tells it; GONE is a 404."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"
    GONE = "gone"


@dataclass(slots=True, kw_only=True)
class Life:
    """What is known of one container. `codes` are the exit codes that an end may have had by what was done to it."""

    name: str
    id: str = ""
    state: State = State.GONE
    code: int | None = None
    restarts_itself: bool = False
    networks: set[str] = field(default_factory=set)

    @property
    def alive(self) -> bool:
        return self.state in (State.RUNNING, State.PAUSED)


# What an action may follow, of those that change a life. `die` and `start` must alternate.
_ALIVE_AFTER = {"create": False, "start": True, "die": False, "pause": True, "unpause": True}
_NEEDS = {"start": False, "die": True, "pause": True, "unpause": True, "destroy": False}


def faults(events: Iterable[Mapping[str, Any]], codes: frozenset[int]) -> list[str]:
    """What is wrong with one container's events, in their order.

    It is created once and first, ends once for each start, with one of `codes`, and nothing comes after its end.
    """
    found: list[str] = []
    alive: bool | None = None
    destroyed = False
    for event in events:
        action = str(event["Action"]).partition(":")[0]
        if destroyed:
            found.append(f"{action} after destroy")
        if action == "create" and alive is not None:
            found.append("create after something else")
        if action != "create" and alive is None:
            found.append(f"{action} before create")
            alive = False
        needed = _NEEDS.get(action)
        if needed is not None and needed is not alive:
            found.append(f"{action} of a container that {'is not alive' if needed else 'is alive'}")
        if action == "die" and int(event["Actor"]["Attributes"]["exitCode"]) not in codes:
            found.append(f"die with code {event['Actor']['Attributes']['exitCode']}, not of {sorted(codes)}")
        alive = _ALIVE_AFTER.get(action, alive)
        destroyed = destroyed or action == "destroy"
    return found


def count_faults(lines: Iterable[str]) -> list[str]:
    """What is wrong with the log of a program that counts from 0 each time it is started."""
    expected = 0
    for line in lines:
        if line == "0":
            expected = 0
        if line != str(expected):
            return [f"{line!r} where {expected} should be"]
        expected += 1
    return []
