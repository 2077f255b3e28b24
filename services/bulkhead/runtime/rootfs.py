"""What the caller hands over beside the config."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayRootfs:
    """Layers as absolute host paths, topmost first, and the writable pair on one file system.

    `volatile` skips every sync of the upper directory: for containers that are removed when they exit.
    """

    lower: tuple[str, ...]
    upper: str
    work: str
    volatile: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioFds:
    """Descriptors for 0, 1 and 2; -1 is the container's /dev/null. Ignored when the process has a terminal."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
