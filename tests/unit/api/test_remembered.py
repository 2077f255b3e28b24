"""Containers of an answer are decoded once per version, and always as the generated code decodes them."""

from __future__ import annotations

import pytest

from bulkhead.api.adapters.remembered import Remembered, Undecoded
from bulkhead.wire.gen.bulkhead.manager import v1 as wire
from bulkhead.wire.gen.bulkhead.types import v1 as types


def test_parts_are_the_messages_that_were_sent() -> None:
    sent = [types.ContainerSummary(id=f"{number:064x}", command="x" * number) for number in (0, 1, 127, 128, 40_000)]
    answer = bytes(wire.ListContainersResponse(containers=sent))
    assert [types.ContainerSummary.parse(part) for part in Undecoded.FromString(answer).parts] == sent
    assert Undecoded.FromString(b"").parts == []


def test_a_field_that_is_not_known_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="cannot read"):
        Undecoded.FromString(b"\x12\x01x")


def test_only_new_bytes_are_decoded_and_old_ones_forgotten() -> None:
    decoded: list[bytes] = []

    def decode(data: bytes) -> str:
        decoded.append(data)
        return data.decode()

    remembered = Remembered(decode, limit=2)
    assert remembered.of([b"a", b"b"]) == ["a", "b"]
    assert remembered.of([b"b", b"a", b"c"]) == ["b", "a", "c"]
    assert decoded == [b"a", b"b", b"c"]
    assert remembered.of([b"a"]) == ["a"]
    assert decoded == [b"a", b"b", b"c", b"a"]
