"""Protobuf for lean processes: plain classes with a field table, standard library only.

The generated messages (betterproto2) cost a forked shim megabytes of dirtied pages. These speak the
same bytes (https://protobuf.dev/programming-guides/encoding): proto3 scalars, optional, repeated,
nested. Unknown fields are skipped. A contract test holds them against the generated classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

from bulkhead.errors import InvalidArgument

STRING, BYTES, SIGNED, UNSIGNED, BOOL, MESSAGE = range(6)
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MASK64 = (1 << 64) - 1
_SIGN_BIT = 1 << 63


class Field(NamedTuple):
    """One row of a message's table; `kind` is one of the constants above."""

    number: int
    name: str
    kind: int
    message: type[Message] | None = None
    repeated: bool = False
    optional: bool = False


class Message:
    """Base of lean messages; `FIELDS` is the table, the attributes are the subclass's own."""

    __slots__ = ()
    FIELDS: ClassVar[Sequence[Field]] = ()


MessageT = TypeVar("MessageT", bound=Message)
_TABLES: dict[type[Message], dict[int, Field]] = {}


def encode(message: Message) -> bytes:
    """The message as protobuf; fields at their default are left out unless they are optional and set."""
    out = bytearray()
    for field in message.FIELDS:
        value = getattr(message, field.name)
        if value is None or (not field.optional and not field.message and not value):
            continue
        for single in value if field.repeated else (value,):
            _encode_field(out, field, single)
    return bytes(out)


def decode(kind: type[MessageT], data: bytes) -> MessageT:
    """Read a message; InvalidArgument when the bytes are not one."""
    try:
        return _decode(kind, data)
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"cannot decode {kind.__name__}: {error}") from error


def _encode_field(out: bytearray, field: Field, value: Any) -> None:
    if field.kind in (SIGNED, UNSIGNED, BOOL):
        out += varint(field.number << 3 | _VARINT)
        out += varint(int(value) & _MASK64)
        return
    if field.kind == STRING:
        payload = value.encode()
    elif field.kind == MESSAGE:
        payload = encode(value)
    else:
        payload = value
    out += varint(field.number << 3 | _LENGTH)
    out += varint(len(payload))
    out += payload


def varint(number: int) -> bytes:
    """A number of at least 0, seven bits to a byte."""
    if number < 0x80:
        return bytes((number,))
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _decode(kind: type[MessageT], data: bytes) -> MessageT:
    message = kind()
    fields = _TABLES.get(kind)
    if fields is None:
        fields = _TABLES[kind] = {field.number: field for field in kind.FIELDS}
    position = 0
    while position < len(data):
        key, position = read_varint(data, position)
        wire = key & 7
        raw, position = read_value(data, position, wire)
        field = fields.get(key >> 3)
        if field is not None:
            _store(message, field, wire, raw)
    return message


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends. ValueError when it is too long, IndexError when it is cut short."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK64, position
        shift += 7
        if shift > 63:
            raise ValueError("varint too long")


def read_value(data: bytes, position: int, wire: int) -> tuple[int | bytes, int]:
    """A field's content as it stands there, and where it ends; errors as of `read_varint`. Most numbers are small."""
    if wire == _LENGTH:
        length = data[position]
        position += 1
        if length > 0x7F:
            length, position = read_varint(data, position - 1)
    elif wire == _VARINT:
        value = data[position]
        return (value, position + 1) if value < 0x80 else read_varint(data, position)
    elif wire in (_FIXED64, _FIXED32):
        length = 8 if wire == _FIXED64 else 4
    else:
        raise ValueError(f"wire type {wire}")
    end = position + length
    if end > len(data):
        raise ValueError("truncated")
    return data[position:end], end


def _store(message: Message, field: Field, wire: int, raw: int | bytes) -> None:
    scalar = field.kind in (SIGNED, UNSIGNED, BOOL)
    if scalar and field.repeated and wire == _LENGTH:
        assert isinstance(raw, bytes)
        position = 0
        while position < len(raw):
            number, position = read_varint(raw, position)
            getattr(message, field.name).append(_scalar(field.kind, number))
        return
    if wire != (_VARINT if scalar else _LENGTH):
        raise ValueError(f"field {field.name} has wire type {wire}")
    value = _value(field, raw)
    if field.repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def _value(field: Field, raw: int | bytes) -> Any:
    if isinstance(raw, int):
        return _scalar(field.kind, raw)
    if field.kind == STRING:
        return raw.decode()
    if field.message is not None:
        return _decode(field.message, raw)
    return raw


def _scalar(kind: int, number: int) -> int | bool:
    if kind == BOOL:
        return number != 0
    if kind == SIGNED and number & _SIGN_BIT:
        return number - (1 << 64)
    return number
