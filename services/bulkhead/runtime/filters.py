"""Compiled seccomp profiles: in memory, and on disk where a directory was named.

Compiling takes milliseconds, a shim lives for one container and there are a handful of distinct profiles,
so the bytes are kept under the profile's hash. A cached file that is not whole is compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bulkhead.errors import InvalidArgument
from bulkhead.linux import seccomp
from bulkhead.linux.seccomp import Filter

_HEADER = struct.Struct("<32sI?I")  # SHA-256 of what follows, flags, lets_fork, length of the unknown names

_compiled: dict[str, Filter] = {}
_directory: Path | None = None
_last: tuple[Mapping[str, Any], Filter] | None = None


def use_directory(directory: Path | None) -> None:
    """Keep compiled filters there (made with mode 0700 at the first need); None keeps them in memory only."""
    global _directory
    _directory = directory


def filter_for(profile: Mapping[str, Any]) -> Filter:
    """The compiled linux.seccomp profile. InvalidArgument when it cannot be expressed."""
    global _last
    key = _key(profile)
    found = _compiled.get(key) or _read(key)
    if found is None:
        try:
            found = seccomp.compile_profile(profile)
        except (seccomp.ProfileError, TypeError, AttributeError, ValueError) as error:
            raise InvalidArgument(f"cannot load the seccomp profile: {error}") from error
        _keep(key, found)
    _compiled[key] = found
    _last = profile, found
    return found


def unknown_in(profile: Mapping[str, Any]) -> tuple[str, ...]:
    """Names that no architecture has. Hashing a profile costs a launch a tenth of a millisecond: the one that a plan
    was just made with is not hashed again."""
    last = _last
    if last is not None and last[0] is profile:
        return last[1].unknown
    return filter_for(profile).unknown


def _key(profile: Mapping[str, Any]) -> str:
    text = json.dumps([seccomp.VERSION, os.uname().machine, profile], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _read(key: str) -> Filter | None:
    if _directory is None:
        return None
    try:
        data = (_directory / key).read_bytes()
    except OSError:
        return None
    if len(data) <= _HEADER.size or data[:32] != hashlib.sha256(data[32:]).digest():
        return None
    _, flags, lets_fork, length = _HEADER.unpack_from(data)
    code = _HEADER.size + length
    unknown = tuple(data[_HEADER.size : code].decode().split())
    return Filter(code=data[code:], flags=flags, lets_fork=lets_fork, unknown=unknown)


def _keep(key: str, compiled: Filter) -> None:
    """Best effort: a full disk costs time, not the container."""
    if _directory is None:
        return
    names = " ".join(compiled.unknown).encode()
    body = struct.pack("<I?I", compiled.flags, compiled.lets_fork, len(names)) + names + compiled.code
    temporary = _directory / f".{key}.{os.getpid()}"
    with contextlib.suppress(OSError):
        _directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            temporary.write_bytes(hashlib.sha256(body).digest() + body)
            temporary.rename(_directory / key)
        finally:
            temporary.unlink(missing_ok=True)
