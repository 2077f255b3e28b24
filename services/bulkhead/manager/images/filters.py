"""Which images a list or a prune is about: Docker's filters, read once, then asked of each image."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from bulkhead.errors import InvalidArgument
from bulkhead.model.reference import Reference

Filters = Mapping[str, Sequence[str]]
OF_LIST = frozenset({"dangling", "label", "before", "since", "reference", "until"})
OF_PRUNE = frozenset({"dangling", "label", "label!", "until"})
LATEST = 2**63 - 1
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNIX = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFilter:
    """`key`, or `key=value`."""

    key: str
    value: str | None

    @staticmethod
    def parse(text: str) -> LabelFilter:
        key, equals, value = text.partition("=")
        return LabelFilter(key=key, value=value if equals else None)

    def fits(self, labels: Mapping[str, str]) -> bool:
        return self.key in labels and (self.value is None or labels[self.key] == self.value)


def labels(filters: Filters, name: str = "label") -> tuple[LabelFilter, ...]:
    """The conditions on labels."""
    return tuple(LabelFilter.parse(text) for text in filters.get(name, ()))


def until(filters: Filters) -> int | None:
    """The moment (Unix nanoseconds) before which an image must have been made."""
    given = filters.get("until", ())
    if not given:
        return None
    if len(given) > 1:
        raise InvalidArgument("more than one until filter specified")
    return moment(given[0])


def moment(text: str) -> int:
    """Unix nanoseconds of an RFC 3339 time, a Unix time, or a Go duration before now. Raises InvalidArgument."""
    if _DURATION.fullmatch(text):
        parts = _DURATION_PART.findall(text)
        return time.time_ns() - sum(int(float(number) * _UNITS[unit]) for number, unit in parts)
    unix = _UNIX.fullmatch(text)
    if unix:
        return int(unix[1]) * 10**9 + int((unix[2] or "").ljust(9, "0"))
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f'failed to parse value as time or duration: "{text}"') from None
    return nanoseconds(parsed)


def created(text: str) -> int:
    """The time in an image's config as Unix nanoseconds, as far as 63 bits go; 0 when it says none, or nonsense."""
    try:
        return min(max(0, nanoseconds(datetime.fromisoformat(text))), LATEST)
    except (ValueError, OverflowError):
        return 0


def nanoseconds(when: datetime) -> int:
    """Unix nanoseconds of a time; one without a zone is UTC."""
    aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return int(aware.timestamp()) * 10**9 + aware.microsecond * 1000


def name_fits(pattern: str, reference: Reference) -> bool:
    """Whether a glob means a reference: its whole familiar form, or its repository alone."""
    glob = _glob(pattern)
    return bool(glob.fullmatch(reference.familiar()) or glob.fullmatch(reference.familiar_name))


@lru_cache(maxsize=64)
def _glob(pattern: str) -> re.Pattern[str]:
    """Go's path.Match as a regular expression: `*` and `?` stop at slashes. Raises InvalidArgument.

    What follows a star is taken where it first occurs, and never tried elsewhere (an atomic group): that finds
    the same, and a pattern of many stars takes no more time than one.
    """
    first, *others = _chunks(pattern)
    found = [first] + [f"(?>[^/]*?{chunk})" for chunk in others[:-1]] + [f"[^/]*{chunk}" for chunk in others[-1:]]
    return re.compile("".join(found), re.DOTALL)


def _chunks(pattern: str) -> list[str]:
    """What is between the stars, each as a regular expression of fixed length."""
    chunks = [""]
    rest = pattern
    while rest:
        char, rest = rest[0], rest[1:]
        if char == "*":
            rest = rest.lstrip("*")
            chunks.append("")
            continue
        if char == "?":
            piece = "[^/]"
        elif char == "[":
            piece, rest = _class(rest, pattern)
        elif char == "\\":
            if not rest:
                raise InvalidArgument(f"invalid filter 'reference={pattern}': syntax error in pattern")
            piece, rest = re.escape(rest[0]), rest[1:]
        else:
            piece = re.escape(char)
        chunks[-1] += piece
    return chunks


def _class(rest: str, pattern: str) -> tuple[str, str]:
    """A bracket expression, without its opening bracket, and what follows it."""
    match = re.match(r"(\^?+)((?:\\.|[^\]\\])+)\]", rest, re.DOTALL)
    if match is None:
        raise InvalidArgument(f"invalid filter 'reference={pattern}': syntax error in pattern")
    ranges = re.findall(r"(\\.|[^\\])(?:-(\\.|[^\\]))?", match[2], re.DOTALL)
    try:
        body = "".join(_range(low[-1], high[-1:]) for low, high in ranges)
        re.compile(f"[{body}]")
    except re.error:
        raise InvalidArgument(f"invalid filter 'reference={pattern}': syntax error in pattern") from None
    return f"[{match[1]}{body}]", rest[match.end() :]


def _range(low: str, high: str) -> str:
    return f"{re.escape(low)}-{re.escape(high)}" if high else re.escape(low)
