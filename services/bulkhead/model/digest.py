"""A content digest, parsed once: `algorithm:encoded`, as in the OCI image specification."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

from bulkhead.errors import InvalidArgument

# Hex digits of each algorithm that may name content here; the spec registers these two.
HEX_LENGTH = {"sha256": 64, "sha512": 128}
_SHAPE = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+", re.ASCII)
_LOWER_HEX = re.compile(r"[0-9a-f]+", re.ASCII)


class Hasher(Protocol):
    """What hashlib's objects offer and a digest needs."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The name of some bytes: `sha256:` and 64 hex digits, or `sha512:` and 128."""

    algorithm: str
    encoded: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read `algorithm:encoded`; raises InvalidArgument with the texts of go-digest, which Docker shows."""
        if not _SHAPE.fullmatch(text):
            raise InvalidArgument("invalid checksum digest format")
        algorithm, _, encoded = text.partition(":")
        length = HEX_LENGTH.get(algorithm)
        if length is None:
            raise InvalidArgument("unsupported digest algorithm")
        if len(encoded) != length:
            raise InvalidArgument("invalid checksum digest length")
        if not _LOWER_HEX.fullmatch(encoded):
            raise InvalidArgument("invalid checksum digest format")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of bytes at hand."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    @classmethod
    def from_hasher(cls, algorithm: str, hasher: Hasher) -> Digest:
        """The digest of everything that `hasher` was fed."""
        return cls(algorithm, hasher.hexdigest())

    def hasher(self) -> Hasher:
        """A fresh hasher of this digest's algorithm."""
        return new_hasher(self.algorithm)

    @property
    def short(self) -> str:
        """The first twelve hex digits: how Docker shows ids to people."""
        return self.encoded[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"


def new_hasher(algorithm: str) -> Hasher:
    """A hasher for `algorithm`; raises InvalidArgument for one that may not name content here."""
    if algorithm not in HEX_LENGTH:
        raise InvalidArgument("unsupported digest algorithm")
    return hashlib.new(algorithm)
