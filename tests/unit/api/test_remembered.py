"""Containers of an answer are decoded once per version, and always as the generated code decodes them."""

from __future__ import annotations

import weakref

import pytest

from bulkhead.api.adapters.manager import REMEMBERED_CONTAINERS, REMEMBERED_SUMMARIES
from bulkhead.api.adapters.remembered import QUESTIONS, Remembered, Undecoded
from bulkhead.wire.gen.bulkhead.manager import v1 as wire
from bulkhead.wire.gen.bulkhead.types import v1 as types


class Decoded:
    pass


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
    assert decoded == [b"a", b"b", b"c"]
    assert remembered.of([b"b"]) == ["b"]
    assert decoded == [b"a", b"b", b"c", b"b"]


def test_containers_that_come_and_go_are_not_kept() -> None:
    decoded: list[bytes] = []
    alive: weakref.WeakSet[Decoded] = weakref.WeakSet()

    def decode(data: bytes) -> Decoded:
        decoded.append(data)
        made = Decoded()
        alive.add(made)
        return made

    remembered = Remembered(decode, limit=REMEMBERED_SUMMARIES)
    questions = 4 * QUESTIONS
    for number in range(questions):
        remembered.of([b"stays", b"goes %d" % number])
    assert len(decoded) == 1 + questions
    assert len(alive) == 1 + 1 + QUESTIONS


def test_those_that_are_polled_one_by_one_are_all_remembered() -> None:
    decoded: list[bytes] = []
    remembered = Remembered(decoded.append, limit=REMEMBERED_CONTAINERS)
    polled = [b"%d" % number for number in range(REMEMBERED_CONTAINERS)]
    for _ in range(4):
        for part in polled:
            remembered.of([part])
    assert decoded == polled
