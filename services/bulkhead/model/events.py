"""What the engine announces: one immutable entry of the journal.

`sequence` is given by the journal, 0 = not yet; it grows by one and survives restarts. Types and actions are
Docker's (`container`/`die`); `GAP` is ours and tells a reader how many entries it asked for are gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CONTAINER = "container"
GAP_TYPE = "journal"
GAP_ACTION = "gap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to `actor_id`; `time` in Unix nanoseconds."""

    type: str
    action: str
    actor_id: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    time: int = 0
    sequence: int = 0


def gap(missed: int, time: int) -> Event:
    """The marker that stands for `missed` entries which retention has dropped."""
    return Event(type=GAP_TYPE, action=GAP_ACTION, actor_id="", attributes={"missed": str(missed)}, time=time)
