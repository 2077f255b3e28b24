"""Envelopes that are read where they lie say what the whole reader makes of them, and what is none is refused alike."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.wire import direct
from bulkhead.wire.ttrpc import KeyValue, Request, Response, Status
from bulkhead.wire.ttrpc_protobuf import decode, encode

ROUTE = "/bulkhead.manager.v1.Containers/Inspect"
REQUESTS = [
    direct.request(route, message, request_id)
    for route in (ROUTE, "/a/b")
    for message in (b"", b"x", b"\x2a\x00" * 40, b"y" * 70_000)
    for request_id in ("", "a", "0123456789abcdef", "z" * 64)
]
OTHERS = [
    encode(Request(service="s", method="m", payload=b"p", timeout_nano=5)),
    encode(Request(service="s", method="m", metadata=[KeyValue("x-request-id", "1"), KeyValue("other", "2")])),
    encode(Request(service="s", method="m", payload=b"p", metadata=[KeyValue("other", "2")])),
    encode(Request(service="s", method="m", payload=b"p", metadata=[KeyValue("x-request-id", "é" * 80)])),
    encode(Request()),
]
RESPONSES = [
    direct.response(b""),
    direct.response(b"x" * 300),
    encode(Response(status=Status(code=5, message="no such container"))),
    encode(Response(status=Status(), payload=b"p")),
    b"",
]


@pytest.mark.parametrize("size", [1, 16, 64, 110, 111, 112, 113, 114, 127, 128, 300])
def test_a_request_id_of_any_size_is_told_as_the_whole_writer_does(size: int) -> None:
    told = Request(service="s", method="m", payload=b"p", metadata=[KeyValue("x-request-id", "z" * size)])
    assert direct.request("/s/m", b"p", "z" * size) == encode(told)


def _whole(envelope: bytes) -> direct.Asked:
    found = decode(Request, envelope)
    metadata = {entry.key: entry.value for entry in found.metadata}
    return direct.Asked(f"/{found.service}/{found.method}", found.payload, metadata)


@pytest.mark.parametrize("envelope", [*REQUESTS, *OTHERS])
def test_requests_are_read_as_they_are(envelope: bytes) -> None:
    assert direct.asked(envelope) == _whole(envelope)


@pytest.mark.parametrize("envelope", RESPONSES)
def test_responses_are_read_as_they_are(envelope: bytes) -> None:
    assert direct.answered(envelope).payload == decode(Response, envelope).payload
    assert (direct.answered(envelope).status or Status()) == (decode(Response, envelope).status or Status())


def test_what_is_damaged_is_read_as_the_whole_reader_does() -> None:
    chance = random.Random(20)
    refused = 0
    for _ in range(4000):
        envelope = _damaged(chance)
        expected = _outcome(_whole, envelope)
        assert _outcome(direct.asked, envelope) == expected
        refused += expected is None
    assert refused > 100


def _damaged(chance: random.Random) -> bytes:
    envelope = bytearray(chance.choice([each for each in (*REQUESTS, *OTHERS) if 0 < len(each) < 300]))
    for _ in range(chance.randint(0, 3)):
        envelope[chance.randrange(len(envelope))] = chance.choice(b"\0\x01\x0a\x12\x1a\x2a\x7f\x80\xff")
    return bytes(envelope[: chance.randint(0, len(envelope))] if chance.random() < 0.3 else envelope)


def _outcome(read: Callable[[bytes], direct.Asked], envelope: bytes) -> direct.Asked | None:
    try:
        return read(envelope)
    except InvalidArgument:
        return None
