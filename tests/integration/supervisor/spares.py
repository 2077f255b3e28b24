"""The spares of a zygote, by what the kernel tells of them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tests.integration.shim.harness import alive


def spares_of(zygote: int) -> set[int]:
    """Processes that the zygote forked and nobody has taken: they still bear its name."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != zygote and alive(int(entry.name)):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # anybody's process, which may end here
                name = (entry / "cmdline").read_bytes().rstrip(b"\0")
                if name == b"bulkhead-zygote" and same_stage(int(entry.name), zygote):
                    found.add(int(entry.name))
    return found


def same_stage(one: int, other: int) -> bool:
    """Whether two processes share the sealed stage program, which every zygote makes anew."""
    return bool({stage(one)} & {stage(other)} - {None})


def stage(pid: int) -> int | None:
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if "memfd:bulkhead" in os.readlink(link):  # noqa: PTH115
                return link.stat().st_ino
    except OSError:
        return None
    return None


def is_taught(pid: int) -> bool:
    """Whether a spare was forked behind the rehearsal: it has the picture of its zygote's memory then."""
    try:
        return any("memfd:bulkhead-memory" in os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())  # noqa: PTH115
    except OSError:
        return False
