"""`wire.protobuf` against the library whose messages it writes and reads: every class of every contract, both ways."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from random import Random
from types import ModuleType
from typing import Any

import betterproto2
import pytest

from bulkhead.wire.gen.bulkhead.manager import v1 as manager
from bulkhead.wire.gen.bulkhead.shim import v1 as shim
from bulkhead.wire.gen.bulkhead.supervisor import v1 as supervisor
from bulkhead.wire.gen.bulkhead.types import v1 as types
from bulkhead.wire.protobuf import decode, encode

ROUNDS = 8
NUMBERS = {
    betterproto2.TYPE_BOOL: (False, True),
    betterproto2.TYPE_INT32: (0, 1, -1, 300, 2**31 - 1, -(2**31)),
    betterproto2.TYPE_INT64: (0, 1, -1, 127, 128, 2**63 - 1, -(2**63)),
    betterproto2.TYPE_UINT32: (0, 1, 128, 2**32 - 1),
    betterproto2.TYPE_UINT64: (0, 1, 128, 2**64 - 1),
    betterproto2.TYPE_STRING: ("", "a", "ümlaut", "x" * 200),
    betterproto2.TYPE_BYTES: (b"", b"\0", b"\xff" * 20000),
    betterproto2.TYPE_DOUBLE: (0.0, 1.5, -2.25),
}


def _messages(*modules: ModuleType) -> Iterator[type[Any]]:
    for module in modules:
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, betterproto2.Message):
                yield kind


KINDS = list(_messages(manager, shim, supervisor, types))


def filled(kind: type[Any], random: Random, depth: int = 3) -> Any:
    """A message in which each field has been left out, or says something."""
    known = kind._betterproto
    said = {
        name: _said(meta, known.cls_by_field[name], random, depth)
        for name, meta in known.meta_by_field_name.items()
        if random.random() < 0.7
    }
    return kind(**{name: value for name, value in said.items() if value is not None})


def _said(meta: Any, kind: type[Any], random: Random, depth: int) -> Any:
    if meta.map_meta:
        inner = kind._betterproto.cls_by_field["value"]
        keys = random.sample(NUMBERS[meta.map_meta[0].proto_type], 2)
        return {key: _one(meta.map_meta[1], inner, random, depth) for key in keys} if depth else None
    if meta.repeated:
        return [_one(meta, kind, random, depth) for _ in range(random.randrange(4))] if depth else None
    return _one(meta, kind, random, depth)


def _one(meta: Any, kind: type[Any], random: Random, depth: int) -> Any:
    if meta.proto_type == betterproto2.TYPE_MESSAGE:
        return filled(kind, random, depth - 1) if depth else None
    return random.choice(NUMBERS[meta.proto_type])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__.split('.')[-2]}.{kind.__name__}")
def test_messages_and_bytes_are_the_librarys(kind: type[Any]) -> None:
    for seed in range(ROUNDS):
        message = filled(kind, Random(f"{kind.__name__} {seed}"))
        written = bytes(message)
        assert encode(message) == written
        assert decode(kind, written) == kind.parse(written) == message


def test_fields_of_a_later_version_are_kept() -> None:
    later = manager.StartExecRequest(id="a", height=3)
    read = decode(manager.InspectExecRequest, bytes(later))
    assert read.id == "a"
    assert manager.StartExecRequest.parse(encode(read)) == later


def test_joined_messages_are_one() -> None:
    """How `manager.servicers.encoded` adds to bytes that are there."""
    first, more = types.Container(id="a", exec_ids=["1"]), types.Container(exec_ids=["2"], size_rw=-1)
    assert decode(types.Container, encode(first) + encode(more)) == types.Container(
        id="a", exec_ids=["1", "2"], size_rw=-1
    )


def test_a_message_that_is_cut_short_is_no_message() -> None:
    written = encode(types.ContainerSpec(image="busybox", command=types.StringList(items=["a" * 300])))
    for size in (1, 5, len(written) - 301, len(written) - 1):
        with pytest.raises(ValueError, match="cannot decode"):
            decode(types.ContainerSpec, written[:size])


@pytest.mark.parametrize("data", [b"\x0a\x01\xff", b"\x0b", b"\x80" * 11, b"\x0a\xff\xff\xff\xff\x0f"])
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot decode InspectExecRequest"):
        decode(manager.InspectExecRequest, data)
