"""What this process has open, to see that nothing of a test stays so."""

from __future__ import annotations

import gc
from collections import Counter
from contextlib import suppress
from pathlib import Path


def open_descriptors() -> Counter[str]:
    """How many there are of each name."""
    # What earlier tests have dropped would otherwise be closed in the middle of this one.
    gc.collect()
    names: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own, or one that another thread closes
            names[str(entry.readlink())] += 1
    return names


def left_since(before: Counter[str]) -> list[str]:
    """What is open now and was not before; that something else has been closed meanwhile is nobody's fault."""
    return sorted((open_descriptors() - before).elements())
