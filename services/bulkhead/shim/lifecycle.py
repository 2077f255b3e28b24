"""A container's life as its shim sees it: phases, and which moves lead where."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType


class Phase(Enum):
    """Where the container is in its life; the names go over the wire."""

    NEW = "new"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"


class Move(Enum):
    """What can be asked of it."""

    CREATE = "create"
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    EXIT = "exit"


MOVES: Mapping[Phase, Mapping[Move, Phase]] = MappingProxyType(
    {
        Phase.NEW: {Move.CREATE: Phase.CREATED},
        Phase.CREATED: {Move.START: Phase.RUNNING, Move.EXIT: Phase.EXITED},
        Phase.RUNNING: {Move.PAUSE: Phase.PAUSED, Move.EXIT: Phase.EXITED},
        Phase.PAUSED: {Move.RESUME: Phase.RUNNING, Move.EXIT: Phase.EXITED},
        Phase.EXITED: {},
    }
)
