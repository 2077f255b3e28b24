"""Times as Docker writes them: RFC 3339 with nanoseconds, and "5 minutes" for people (go-units)."""

from __future__ import annotations

from datetime import UTC, datetime

ZERO = "0001-01-01T00:00:00Z"
SECOND = 10**9


def rfc3339(nanoseconds: int) -> str:
    """What has never been is 0, and Go's zero time."""
    return instant(nanoseconds) if nanoseconds else ZERO


def instant(nanoseconds: int) -> str:
    """RFC3339Nano, trailing zeros dropped as Go does."""
    seconds, fraction = divmod(nanoseconds, SECOND)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f".{fraction:09}".rstrip("0").rstrip(".")
    return f"{text}{digits}Z"


def human(nanoseconds: int) -> str:
    """go-units' HumanDuration."""
    seconds = max(nanoseconds, 0) // SECOND
    minutes = seconds // 60
    hours = int(seconds / 3600 + 0.5)
    if seconds < 60:
        return "Less than a second" if seconds < 1 else "1 second" if seconds == 1 else f"{seconds} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{seconds // 3600 // 24 // 365} years"


def rfc3339_fixed(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nine digits of fraction: stamps of log lines, comparable as strings."""
    seconds, fraction = divmod(nanoseconds, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09}Z"
