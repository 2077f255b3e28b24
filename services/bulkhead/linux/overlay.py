"""Overlay file systems: what is left on disk between two mounts (Documentation/filesystems/overlayfs.rst)."""

from __future__ import annotations

import contextlib
from pathlib import Path

MAX_LOWER = 500  # OVL_MAX_STACK


def forgive_volatile(work: str) -> None:
    """Let an upper directory that was mounted `volatile` be mounted again.

    The kernel refuses it so that nobody trusts unsynced files after a crash; that is for the caller to know.
    """
    marker = Path(work, "work", "incompat", "volatile")
    with contextlib.suppress(FileNotFoundError):
        for entry in marker.iterdir():
            entry.unlink()
        marker.rmdir()
