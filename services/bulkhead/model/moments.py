"""Points in time as clients write them in `until=` filters."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from bulkhead.errors import InvalidArgument

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|us|ns|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_UNIX = re.compile(r"([0-9]{1,11})(?:\.([0-9]{1,9}))?")


def parse_moment(text: str, now: int) -> int:
    """Unix nanoseconds of a Unix time, an RFC 3339 date or a duration ("1h30m") before `now`.

    Raises InvalidArgument.
    """
    unix = _UNIX.fullmatch(text)
    if unix is not None:
        return int(unix[1]) * 1_000_000_000 + int((unix[2] or "0").ljust(9, "0"))
    if re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        return now - sum(int(float(each[1]) * _SECONDS[each[2]] * 1e9) for each in _DURATION.finditer(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f'failed to parse value as time or duration: "{text}"') from None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return int(aware.timestamp()) * 1_000_000_000 + aware.microsecond * 1000
