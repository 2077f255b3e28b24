"""Containers as bytes on the wire, encoded once per change instead of once per question.

Encoding a container takes longer than everything else a `ps` or an inspect does. Records are immutable, so the bytes
of one stay true for as long as the index holds that very object. Protobuf lets messages be joined by joining their
bytes: what changes without the record (execs, sizes) is encoded apart and appended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import betterproto2

from bulkhead.manager.index import Index
from bulkhead.model.container import Container
from bulkhead.wire.gen.bulkhead.manager import v1 as api
from bulkhead.wire.protobuf import encode
from bulkhead.wire.ttrpc_protobuf import varint

# The only field of either answer: number 1, length-delimited.
_FIELD_1 = b"\x0a"
# Forgotten entries are swept when there are so many more of them than containers.
_SLACK = 256


class EncodedList(api.ListContainersResponse):
    """A list's answer whose containers are encoded already."""

    def __bytes__(self) -> bytes:
        return self.__dict__["encoded"]  # type: ignore[no-any-return]


class EncodedInspect(api.InspectContainerResponse):
    """An inspect's answer whose container is encoded already."""

    def __bytes__(self) -> bytes:
        return self.__dict__["encoded"]  # type: ignore[no-any-return]


class EncodedContainers:
    """Remembers the bytes that `encode` makes of each container."""

    def __init__(self, index: Index, encode: Callable[[Container], betterproto2.Message]) -> None:
        self._index = index
        self._encode = encode
        self._known: dict[str, tuple[Container, bytes]] = {}

    def of(self, container: Container) -> bytes:
        """Its bytes, of this version of its record."""
        known = self._known.get(container.id)
        if known is not None and known[0] is container:
            return known[1]
        encoded = encode(self._encode(container))
        if len(self._known) > 2 * len(self._index) + _SLACK:
            self._known = {key: value for key, value in self._known.items() if self._index.knows(key)}
        self._known[container.id] = (container, encoded)
        return encoded


def list_answer(encoded: Iterable[bytes]) -> EncodedList:
    """A list of containers, each given as its bytes."""
    answer = EncodedList()
    answer.__dict__["encoded"] = b"".join(_field_1(each) for each in encoded)
    return answer


def inspect_answer(encoded: bytes, more: bytes) -> EncodedInspect:
    """A container given as its bytes, with the fields of `more`, which are bytes as well, beside them."""
    answer = EncodedInspect()
    answer.__dict__["encoded"] = _field_1(encoded + more)
    return answer


def _field_1(payload: bytes) -> bytes:
    return _FIELD_1 + varint(len(payload)) + payload
