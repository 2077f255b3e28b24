"""One JSON log line, written with the standard library alone.

The shim and the zygote stay small: they import neither structlog nor asyncio. Their lines have the
shape that `telemetry` gives the services: timestamp, level, service, pid, event, request_id, then
whatever the caller adds.
"""

from __future__ import annotations

import functools
import json
import os
import time


def timestamp(seconds: float | None = None) -> str:
    """RFC 3339 in UTC with microseconds, as in every log line of the engine."""
    now = time.time() if seconds is None else seconds
    whole = int(now)
    return f"{_second(whole)}.{int((now - whole) * 1e6):06d}Z"


@functools.lru_cache(maxsize=1)
def _second(whole: int) -> str:
    """Of one second there are many lines."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))


def log_line(fileno: int, level: str, event: str, **fields: object) -> None:
    """Write one line to `fileno` in a single write(2); a log that cannot be written is dropped.

    `service` and `request_id` are ordinary fields. Values that JSON lacks are shown by `str`.
    """
    line: dict[str, object] = {"timestamp": timestamp(), "level": level, "pid": os.getpid(), "event": event, **fields}
    try:
        os.write(fileno, json.dumps(line, default=str).encode() + b"\n")
    except (OSError, ValueError):
        # A full disk or a closed log must never stop a container.
        return
