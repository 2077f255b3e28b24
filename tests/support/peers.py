"""What other people's engines leave on the machine."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from bulkhead.linux.cgroups import Cgroup

_ROOT = Path("/sys/fs/cgroup")


def remove_everywhere(group: str) -> None:
    """Remove a cgroup of podman's: it makes directories of controllers that are not mounted, too."""
    Cgroup(group).remove()
    for place in _ROOT.glob(f"*{group}"):
        above = _ROOT / place.relative_to(_ROOT).parts[0]
        if not above.is_mount():
            shutil.rmtree(place)
            with contextlib.suppress(OSError):  # others have some there
                above.rmdir()
