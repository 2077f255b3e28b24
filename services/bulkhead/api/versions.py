"""Versions of the Engine API: parsed, compared, and the window that is served.

The window reaches down to 1.24 because clients in the field pin old versions (testcontainers-java: 1.32).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from bulkhead import __version__
from bulkhead.errors import InvalidArgument


class Version(NamedTuple):
    """`1.51` as a pair, so that 1.9 < 1.24."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


OLDEST = Version(1, 24)
NEWEST = Version(1, 51)

# On every answer but "page not found", which Docker's mux sends before its version check.
HEADERS = {
    "Server": f"Docker/{__version__} (linux)",
    "Api-Version": str(NEWEST),
    "Ostype": "linux",
    "Docker-Experimental": "false",
}

_SHAPE = re.compile(r"([0-9]{1,4})(?:\.([0-9]{1,4}))?")

# Compose 1 asks in whatever version it is told of, and reads answers as the last one that it knew has them.
_COMPOSE_1, _COMPOSE_1_READS = "docker-compose/1.", Version(1, 41)


@lru_cache(maxsize=64)
def parse(text: str) -> Version:
    """Read the version of a path; raises InvalidArgument for what is none."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"invalid API version: {text}")
    return Version(int(match[1]), int(match[2] or 0))


def readable(asked: Version, client: str) -> Version:
    """The version of an answer that `client`, by its User-Agent, can read."""
    return min(asked, _COMPOSE_1_READS) if client.startswith(_COMPOSE_1) else asked


def check(version: Version) -> None:
    """Raise InvalidArgument, in Docker's words, for a version outside the window."""
    if version > NEWEST:
        raise InvalidArgument(f"client version {version} is too new. Maximum supported API version is {NEWEST}")
    if version < OLDEST:
        raise InvalidArgument(
            f"client version {version} is too old. Minimum supported API version is {OLDEST}, "
            "please upgrade your client to a newer version"
        )
