"""A duplex byte stream between two who do not know each other: what an end of it can do, and what it tells its user."""

from __future__ import annotations

from typing import Protocol


class Listener(Protocol):
    """What one end of a duplex stream tells its user."""

    def received(self, data: bytes) -> None: ...

    def ended(self) -> None:
        """The peer will send no more (half-close)."""

    def lost(self) -> None:
        """The connection is gone, both ways."""

    def writing_paused(self) -> None:
        """The peer reads slowly: write no more for now."""

    def writing_resumed(self) -> None: ...


class End(Protocol):
    """One end of a duplex byte stream."""

    def listen(self, listener: Listener) -> None:
        """From now on `listener` is told; what came before is told first."""

    def write(self, data: bytes) -> None: ...

    def write_eof(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        """Close once everything written was sent."""
