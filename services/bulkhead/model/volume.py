"""Volumes: directories, or file systems mounted by the kernel, that outlive the containers that use them.

The `local` driver's options are those of mount(8): `type`, `device`, `o` (a comma separated list), and `size`, a
quota in bytes of a volume that is a directory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from bulkhead.errors import InvalidArgument, NotFound

LOCAL = "local"
ANONYMOUS_LABEL = "com.docker.volume.anonymous"

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
# A directory has that name.
_LONGEST_NAME = 255
_SIZE = re.compile(r"([0-9]+)\s*(?:([kmgtp]?)(?:i?b)?)", re.IGNORECASE)
_POWERS = MappingProxyType({"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5})
# An option, and those without which it means nothing (docs.docker.com, volume create).
_NEEDS = MappingProxyType({"device": ("type",), "type": ("device",), "o": ("device", "type"), "size": ()})
_BINDS = frozenset(("none", "bind"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume's record. `created_at` in Unix nanoseconds."""

    name: str
    driver: str = LOCAL
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    created_at: int = 0

    @property
    def anonymous(self) -> bool:
        """Made for a container that named none."""
        return ANONYMOUS_LABEL in self.labels

    @property
    def bound_directory(self) -> str:
        """The directory of the host that the volume stands for (`type=none,o=bind`), else empty."""
        return self.options.get("device", "") if self.options.get("type", "") in _BINDS else ""

    @property
    def is_bound_read_only(self) -> bool:
        """Whether nobody writes to that directory by the volume (`o=bind,ro`)."""
        given = self.options.get("o", "").split(",")
        return bool(self.bound_directory) and [each for each in given if each in ("ro", "rw")][-1:] == ["ro"]

    @property
    def is_ours(self) -> bool:
        """Whether its files are the engine's own: with options they may be anybody's, and as slow to be counted."""
        return not self.options

    @property
    def is_mounted(self) -> bool:
        """Whether a file system of its own has to be mounted while it is used."""
        return bool(self.options.get("type")) and not self.bound_directory

    @property
    def quota(self) -> int:
        """The most bytes that it may hold, 0 = any."""
        return parse_size(self.options["size"]) if self.options.get("size") else 0


def check_name(name: str) -> str:
    """`name`, or InvalidArgument with Docker's text."""
    if len(name) == 1:
        raise InvalidArgument(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if len(name) > _LONGEST_NAME:
        raise InvalidArgument(f"create {name}: volume name is too long, names have {_LONGEST_NAME} characters at most")
    if _NAME.fullmatch(name) is None:
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
    return name


def check_driver(name: str, driver: str) -> str:
    """The driver's name; NotFound with Docker's text for one that is not there."""
    if driver in ("", LOCAL):
        return LOCAL
    raise NotFound(f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found')


def check_options(name: str, options: Mapping[str, str]) -> None:
    """InvalidArgument with Docker's texts for options that the local driver does not have or cannot use."""
    unknown = sorted(set(options) - set(_NEEDS))
    if unknown:
        raise InvalidArgument(f'create {name}: invalid option: "{unknown[0]}"')
    for option in options:
        for needed in _NEEDS[option]:
            if needed not in options:
                raise InvalidArgument(f'create {name}: missing required option: "{needed}"')
    if options.get("size"):
        parse_size(options["size"])
    _check_bind(name, options)


def _check_bind(name: str, options: Mapping[str, str]) -> None:
    kind, device = options.get("type", ""), options.get("device", "")
    if kind in _BINDS and not device.startswith("/"):
        raise InvalidArgument(f"create {name}: invalid option: device {device!r} must be an absolute path")
    if "\0" in "".join(options.values()):
        raise InvalidArgument(f"create {name}: invalid option: a value holds a zero byte")


def parse_size(text: str) -> int:
    """Bytes of "10G", "512m" or "4096". Raises InvalidArgument with Docker's text."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"invalid size: '{text}'")
    return int(match[1]) << 10 * _POWERS[match[2].lower()]
