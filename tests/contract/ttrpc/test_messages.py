"""The shim's lean messages are the generated ones, field by field and byte by byte."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import betterproto2
import pytest

from bulkhead.shim import messages
from bulkhead.wire.gen.bulkhead.shim import v1 as generated
from bulkhead.wire.ttrpc_protobuf import BOOL, BYTES, MESSAGE, SIGNED, STRING, UNSIGNED, Message, decode, encode

ALIASES = {
    "WaitRequest": messages.WaitRequest,
    "ExecStartRequest": messages.ExecReference,
    "ExecStateRequest": messages.ExecReference,
    "CloseStdinRequest": messages.ExecReference,
}
NAMES = sorted(name for name in generated.__all__ if not name.endswith(("Base", "Stub")))
KINDS = {
    betterproto2.TYPE_STRING: STRING,
    betterproto2.TYPE_BYTES: BYTES,
    betterproto2.TYPE_INT32: SIGNED,
    betterproto2.TYPE_INT64: SIGNED,
    betterproto2.TYPE_UINT32: UNSIGNED,
    betterproto2.TYPE_UINT64: UNSIGNED,
    betterproto2.TYPE_BOOL: BOOL,
    betterproto2.TYPE_MESSAGE: MESSAGE,
}


def lean(name: str) -> type[Message]:
    kind: type[Message] = getattr(messages, name, messages.Empty)
    return ALIASES.get(name, kind)


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_agree(name: str) -> None:
    theirs = {}
    for field in dataclasses.fields(getattr(generated, name)):
        meta = field.metadata["betterproto"]
        optional = bool(meta.optional) and meta.proto_type != betterproto2.TYPE_MESSAGE
        theirs[meta.number] = (field.name, KINDS[meta.proto_type], bool(meta.repeated), optional)
    ours = {field.number: (field.name, field.kind, field.repeated, field.optional) for field in lean(name).FIELDS}
    assert ours == theirs


def some_value(source: random.Random, kind: int, message: type[Message] | None) -> Any:
    if kind == MESSAGE:
        assert message is not None
        return some(source, message)
    return {
        STRING: source.choice(("x", "héllo", "a" * 300)),
        BYTES: source.randbytes(source.randrange(1, 300)),
        SIGNED: source.choice((1, -1, 127, 128, -(1 << 31), (1 << 31) - 1)),
        UNSIGNED: source.choice((1, 300, (1 << 32) - 1)),
        BOOL: True,
    }[kind]


def some(source: random.Random, kind: type[Message]) -> Message:
    values = {}
    for field in kind.FIELDS:
        if source.random() < 0.3:
            continue
        one = [some_value(source, field.kind, field.message) for _ in range(source.randrange(1, 4))]
        values[field.name] = one if field.repeated else one[0]
    return kind(**values)


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_agree_both_ways(name: str) -> None:
    source = random.Random(name)
    for _ in range(50):
        ours = some(source, lean(name))
        theirs = getattr(generated, name).parse(encode(ours))
        assert decode(lean(name), bytes(theirs)) == ours


def test_every_rpc_of_the_service_is_served_and_called() -> None:
    from bulkhead.shim.servicer import ShimServicer
    from bulkhead.wire.ttrpc_client import ShimClient

    prefix = f"/{messages.SERVICE}/"
    routes = {route.removeprefix(prefix) for route in generated.ShimBase().__mapping__()}
    servicer = ShimServicer(None, None, None, lambda done: None, lambda: None, lambda: False)  # type: ignore[arg-type]
    assert set(servicer.services()[messages.SERVICE]) == routes
    methods = {"".join(part.title() for part in name.split("_")) for name in vars(ShimClient) if name[0] != "_"}
    assert routes <= methods
