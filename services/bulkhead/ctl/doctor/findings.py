"""What the doctor finds: how bad, about what, what to do, and whether it can be mended from here."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass


class Level(enum.Enum):
    """How bad it is: `WARN` costs a feature or will hurt later, `FAIL` hurts now."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Area(enum.Enum):
    """Whose it is: the machine's, or this installation's."""

    HOST = "host"
    INSTANCE = "instance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. `advice` is what to do, empty when all is well.

    `mend` sets it right and harms nothing that is in use; it raises OSError or a BulkheadError when it cannot.
    """

    area: Area
    level: Level
    subject: str
    text: str
    advice: str = ""
    mend: Callable[[], None] | None = None

    @property
    def key(self) -> tuple[Area, str, str]:
        """The same in two looks at the same thing."""
        return self.area, self.subject, self.text


def ok(area: Area, subject: str, text: str) -> Finding:
    return Finding(area=area, level=Level.OK, subject=subject, text=text)
