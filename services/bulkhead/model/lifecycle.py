"""The life of a container: its phases, what can happen to it, and which moves are legal.

Whatever moves a container moves it through `apply`; an event that is not in the row of the present phase is
an error that changes nothing.
"""

from __future__ import annotations

from enum import Enum

from bulkhead.errors import Conflict


class Phase(Enum):
    """Docker's State.Status, one value at a time instead of seven booleans."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"

    @property
    def alive(self) -> bool:
        """A process of the container exists."""
        return self in (Phase.RUNNING, Phase.PAUSED)


class Event(Enum):
    """What can happen to a container."""

    STARTED = "started"
    START_FAILED = "start failed"
    PAUSED = "paused"
    RESUMED = "resumed"
    EXITED = "exited"
    RESTART_SCHEDULED = "restart scheduled"
    RESTART_CANCELLED = "restart cancelled"
    REMOVAL_BEGUN = "removal begun"
    REMOVAL_FAILED = "removal failed"


TRANSITIONS: dict[Phase, dict[Event, Phase]] = {
    Phase.CREATED: {
        Event.STARTED: Phase.RUNNING,
        Event.START_FAILED: Phase.CREATED,
        Event.REMOVAL_BEGUN: Phase.REMOVING,
    },
    Phase.RUNNING: {
        Event.PAUSED: Phase.PAUSED,
        Event.EXITED: Phase.EXITED,
    },
    Phase.PAUSED: {
        Event.RESUMED: Phase.RUNNING,
        Event.EXITED: Phase.EXITED,
    },
    Phase.EXITED: {
        Event.STARTED: Phase.RUNNING,
        Event.START_FAILED: Phase.EXITED,
        Event.RESTART_SCHEDULED: Phase.RESTARTING,
        Event.REMOVAL_BEGUN: Phase.REMOVING,
    },
    Phase.RESTARTING: {
        Event.STARTED: Phase.RUNNING,
        Event.START_FAILED: Phase.EXITED,
        Event.RESTART_CANCELLED: Phase.EXITED,
        Event.REMOVAL_BEGUN: Phase.REMOVING,
    },
    Phase.REMOVING: {
        Event.REMOVAL_FAILED: Phase.DEAD,
    },
    Phase.DEAD: {
        Event.REMOVAL_BEGUN: Phase.REMOVING,
    },
}


def apply(phase: Phase, event: Event) -> Phase:
    """The phase after `event`; Conflict when it cannot happen in `phase`."""
    after = TRANSITIONS[phase].get(event)
    if after is None:
        raise Conflict(f"cannot apply {event.value!r} to a container that is {phase.value}")
    return after
