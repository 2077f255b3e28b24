from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.wire.ttrpc_protobuf import BOOL, BYTES, MESSAGE, SIGNED, STRING, UNSIGNED, Field, Message, decode, encode


@dataclass(slots=True)
class Inner(Message):
    name: str = ""
    FIELDS: ClassVar = (Field(1, "name", STRING),)


@dataclass(slots=True)
class Outer(Message):
    text: str = ""
    raw: bytes = b""
    signed: int = 0
    unsigned: int = 0
    flag: bool = False
    inner: Inner | None = None
    inners: list[Inner] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    maybe: int | None = None
    FIELDS: ClassVar = (
        Field(1, "text", STRING),
        Field(2, "raw", BYTES),
        Field(3, "signed", SIGNED),
        Field(4, "unsigned", UNSIGNED),
        Field(5, "flag", BOOL),
        Field(6, "inner", MESSAGE, Inner),
        Field(7, "inners", MESSAGE, Inner, repeated=True),
        Field(8, "numbers", SIGNED, repeated=True),
        Field(2000, "maybe", SIGNED, optional=True),
    )


@pytest.mark.parametrize(
    "message",
    [
        Outer(),
        Outer(text="héllo", raw=b"\x00\xff", signed=-1, unsigned=(1 << 64) - 1, flag=True),
        Outer(inner=Inner(), inners=[Inner(name="a"), Inner()], numbers=[0, -5, 1 << 40]),
        Outer(maybe=0),
        Outer(signed=-(1 << 63), maybe=-7),
    ],
)
def test_what_is_encoded_is_decoded(message: Outer) -> None:
    assert decode(Outer, encode(message)) == message


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (Outer(), b""),
        (Outer(text="a"), b"\x0a\x01a"),
        (Outer(signed=-1), b"\x18" + b"\xff" * 9 + b"\x01"),
        (Outer(unsigned=300), b"\x20\xac\x02"),
        (Outer(inner=Inner()), b"\x32\x00"),
        (Outer(maybe=0), b"\x80\x7d\x00"),
    ],
)
def test_the_bytes_are_protobuf(message: Outer, data: bytes) -> None:
    assert encode(message) == data


def test_unknown_fields_are_skipped_and_packed_numbers_read() -> None:
    unknown = b"\xf8\x07\x05" + b"\xfa\x07\x02xx" + b"\xf9\x07" + b"8" * 8 + b"\xfd\x07" + b"4" * 4
    assert decode(Outer, unknown + b"\x0a\x01a" + b"\x42\x03\x01\xac\x02") == Outer(text="a", numbers=[1, 300])


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",
        b"\x0a\x05abc",
        b"\x0a\x01\xff",
        b"\x18",
        b"\x18" + b"\xff" * 11,
        b"\x08\x01",
        b"\x1a\x01a",
        b"\x0b",
        b"\x32\x01\x0a",
    ],
)
def test_bytes_that_are_no_message_are_an_error_of_the_caller(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="cannot decode Outer"):
        decode(Outer, data)


def test_no_bytes_at_all_do_more_than_that() -> None:
    source = random.Random(3)
    whole = encode(Outer(text="text", raw=b"raw", signed=-1, inner=Inner(name="x"), numbers=[1, 2], maybe=3))
    for _ in range(20_000):
        data = bytearray(whole[: source.randrange(len(whole) + 1)])
        for _ in range(source.randrange(4)):
            if data:
                data[source.randrange(len(data))] = source.randrange(256)
        try:
            decode(Outer, bytes(data))
        except InvalidArgument:
            continue
