"""Protobuf for lean processes: plain classes with a field table, standard library only.

The generated messages (betterproto2) cost a forked shim megabytes of dirtied pages. These speak the
same bytes (https://protobuf.dev/programming-guides/encoding): proto3 scalars, optional, repeated,
nested. Unknown fields are skipped. A contract test holds them against the generated classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
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


class _Writing(NamedTuple):
    """How a field is written; one that does not `tell` zero from nothing leaves out zeros, and what is empty."""

    name: str
    tag: bytes
    kind: int
    tells: bool
    repeated: bool


class _Reading(NamedTuple):
    """How a field is read: by `read`, unless it is bytes."""

    name: str
    read: Callable[[Any], Any] | None
    repeated: bool


# Made once for each class, by whoever uses it first.
_WRITING: dict[type[Message], list[_Writing]] = {}
_READING: dict[type[Message], dict[int, _Reading]] = {}
# Numbers of one byte, encoded; most are.
SMALL = tuple(bytes((number,)) for number in range(0x80))


def encode(message: Message) -> bytes:
    """The message as protobuf; fields at their default are left out unless they are optional and set."""
    plan = _WRITING.get(type(message))
    if plan is None:
        plan = _WRITING[type(message)] = _writing(type(message))
    out: list[bytes] = []
    for name, tag, kind, tells, repeated in plan:
        value = getattr(message, name)
        if value is None or not (value or tells):
            continue
        for single in value if repeated else (value,):
            if kind in _NUMBERS:
                number = int(single) & _MASK64
                out += (tag, SMALL[number] if number < 0x80 else varint(number))
                continue
            payload = single.encode() if kind == STRING else encode(single) if kind == MESSAGE else single
            size = len(payload)
            out += (tag, SMALL[size] if size < 0x80 else varint(size), payload)
    return b"".join(out)


def decode(kind: type[MessageT], data: bytes) -> MessageT:
    """Read a message; InvalidArgument when the bytes are not one."""
    try:
        return _decode(kind, data)
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"cannot decode {kind.__name__}: {error}") from error


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
    table = _READING.get(kind)
    if table is None:
        table = _READING[kind] = _reading(kind)
    position, size = 0, len(data)
    while position < size:
        key = data[position]
        position += 1
        if key > 0x7F:
            key, position = read_varint(data, position - 1)
        if key & 7 == _LENGTH and (length := data[position]) < 0x80:
            # Most are like this. What `read_value` does for it, without a call for each field.
            position += 1
            raw: Any = data[position : position + length]
            position += length
            if position > size:
                raise ValueError("truncated")
        else:
            raw, position = read_value(data, position, key & 7)
        field = table.get(key)
        if field is None:
            _check_unknown(kind, key)
            continue
        name, read, repeated = field
        value = raw if read is None else read(raw)
        if not repeated:
            setattr(message, name, value)
        elif read in _PACKED:
            getattr(message, name).extend(value)
        else:
            getattr(message, name).append(value)
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


def _check_unknown(kind: type[Message], key: int) -> None:
    """A field of a later version is skipped; one that is known and of another kind is an error."""
    for field in kind.FIELDS:
        if field.number == key >> 3:
            raise ValueError(f"field {field.name} has wire type {key & 7}")


def _signed(number: int) -> int:
    return number - (1 << 64) if number & _SIGN_BIT else number


def _all_of(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Reads numbers that were packed into one field."""

    def read_all(raw: bytes) -> list[Any]:
        found, position = [], 0
        while position < len(raw):
            number, position = read_varint(raw, position)
            found.append(read(number))
        return found

    return read_all


_NUMBERS: dict[int, Callable[[Any], Any]] = {SIGNED: _signed, UNSIGNED: int, BOOL: bool}
_ALL = {kind: _all_of(read) for kind, read in _NUMBERS.items()}
_PACKED = frozenset(_ALL.values())


def _writing(kind: type[Message]) -> list[_Writing]:
    rows = []
    for field in kind.FIELDS:
        wire = _VARINT if field.kind in _NUMBERS else _LENGTH
        tells = field.optional or field.message is not None
        rows.append(_Writing(field.name, varint(field.number << 3 | wire), field.kind, tells, field.repeated))
    return rows


def _reading(kind: type[Message]) -> dict[int, _Reading]:
    table = {}
    for field in kind.FIELDS:
        length = field.number << 3 | _LENGTH
        if field.kind in _NUMBERS:
            table[field.number << 3 | _VARINT] = _Reading(field.name, _NUMBERS[field.kind], field.repeated)
            if field.repeated:
                table[length] = _Reading(field.name, _ALL[field.kind], True)
        else:
            table[length] = _Reading(field.name, _content(field), field.repeated)
    return table


def _content(field: Field) -> Callable[[Any], Any] | None:
    if field.message is not None:
        return functools.partial(_decode, field.message)
    return bytes.decode if field.kind == STRING else None
