"""Generated messages to bytes and back, several times faster than they do it themselves.

betterproto2 looks everything up again for each field of each message, through a stream: of the processor time of an
API's or manager's call half was that. Here it is looked up once per class. The bytes and the messages are the same
(a contract test holds them against each other), but a message that is cut short is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import betterproto2

from bulkhead.wire.ttrpc_protobuf import SMALL, read_value, read_varint, varint

M = TypeVar("M")
Out = list[bytes]
Put = Callable[[Out, Any], None]
Read = Callable[[Any], Any]

_VARINT, _LENGTH = 0, 2
_MASK64 = (1 << 64) - 1
_TEXTS = frozenset((betterproto2.TYPE_STRING, betterproto2.TYPE_BYTES, betterproto2.TYPE_MESSAGE))
_OWN = betterproto2.Message.__bytes__


class Writing(NamedTuple):
    """How a field is written. Zeros and what is empty are left out, unless it `tells` None from them."""

    name: str
    tells: bool
    put: Put


class Reading(NamedTuple):
    """How a field is read; `whole` gives several values, `pair` the key and the value of a map."""

    name: str
    read: Read
    repeated: bool = False
    whole: bool = False
    pair: bool = False


def encode(message: Any) -> bytes:
    """The message as protobuf."""
    kind = type(message)
    plan = _WRITING.get(kind)
    if plan is None:
        plan = _WRITING[kind] = _writing(kind)
    if not plan:
        # It has no fields, or some that only itself can write.
        return bytes(message)
    out: Out = []
    for name, tells, put in plan:
        value = getattr(message, name)
        if value is not None if tells else value:
            put(out, value)
    if message._unknown_fields:
        out.append(message._unknown_fields)
    return b"".join(out)


def decode(kind: type[M], data: bytes) -> M:
    """Read a message of the generated class `kind`; ValueError when the bytes are not one."""
    table = _READING.get(kind)
    if table is None:
        table = _READING[kind] = _reading(kind)
    try:
        if table is _THEMSELVES:
            return cast(M, cast(Any, kind).FromString(data))
        return _decoded(kind, table, data)
    except (IndexError, ValueError, EOFError) as error:
        raise ValueError(f"cannot decode {kind.__name__}: {error}") from error


_WRITING: dict[type[Any], list[Writing]] = {}
_READING: dict[type[Any], dict[int, Reading]] = {}
# Of classes that read themselves.
_THEMSELVES: dict[int, Reading] = {}


def _decoded(kind: type[M], table: dict[int, Reading], data: bytes) -> M:
    values, unknown = fields_of(table, data)
    message = kind(**values)
    if unknown:
        message._unknown_fields = unknown  # type: ignore[attr-defined]
    return message


def fields_of(table: dict[int, Reading], data: bytes) -> tuple[dict[str, Any], bytes]:
    """What a message says of the fields in `table`, by name, and the bytes of others. Errors as of `read_varint`."""
    values: dict[str, Any] = {}
    unknown = b""
    position, size = 0, len(data)
    while position < size:
        began = position
        key = data[position]
        position += 1
        if key > 0x7F:
            key, position = read_varint(data, began)
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
            unknown += data[began:position]
        elif field.pair:
            name, value = field.read(raw)
            values.setdefault(field.name, {})[name] = value
        elif field.repeated:
            found = values.setdefault(field.name, [])
            found += field.read(raw) if field.whole else (field.read(raw),)
        else:
            values[field.name] = field.read(raw)
    return values, unknown


# -- plans


def _ours(kind: type[Any]) -> bool:
    """Whether the class leaves its bytes to the library, and has no field of a kind that only the library knows."""
    if not issubclass(kind, betterproto2.Message) or kind.__bytes__ is not _OWN:
        return False
    rows: list[betterproto2.FieldMetadata] = []
    for meta in cast(Any, kind)._betterproto.meta_by_field_name.values():
        rows += (meta, *(meta.map_meta or ()))
    known = _TEXTS | _INTEGERS.keys() | {betterproto2.TYPE_MAP}
    return all(meta.proto_type in known and not meta.unwrap and not meta.group for meta in rows)


def _writing(kind: type[Any]) -> list[Writing]:
    if not _ours(kind):
        return []
    return [field_writing(name, meta) for name, meta in kind._betterproto.meta_by_field_name.items()]


def field_writing(name: str, meta: betterproto2.FieldMetadata) -> Writing:
    """How a field is written."""
    if meta.map_meta:
        return Writing(name, False, _pairs(_tag(meta.number, _LENGTH), *meta.map_meta))
    put = _putting(meta.number, meta.proto_type)
    if not meta.repeated:
        return Writing(name, bool(meta.optional) or meta.proto_type == betterproto2.TYPE_MESSAGE, put)
    return Writing(name, False, _packed(meta.number) if meta.proto_type in _INTEGERS else each_of(put))


def _putting(number: int, proto_type: str) -> Put:
    if proto_type in _INTEGERS:
        return _integer(_tag(number, _VARINT))
    return lengthy(number, _BYTES_OF[proto_type])


def _integer(tag: bytes) -> Put:
    def put(out: Out, value: int) -> None:
        number = value & _MASK64
        out += (tag, SMALL[number] if number < 0x80 else varint(number))

    return put


def lengthy(number: int, to_bytes: Callable[[Any], bytes]) -> Put:
    """Write field `number`, whose content is bytes after all."""
    tag = _tag(number, _LENGTH)

    def put(out: Out, value: Any) -> None:
        raw = to_bytes(value)
        size = len(raw)
        out += (tag, SMALL[size] if size < 0x80 else varint(size), raw)

    return put


def each_of(put: Put) -> Put:
    """Write a field for each value."""

    def put_all(out: Out, values: list[Any]) -> None:
        for value in values:
            put(out, value)

    return put_all


def _packed(number: int) -> Put:
    put = lengthy(number, bytes)
    return lambda out, values: put(out, b"".join([varint(value & _MASK64) for value in values]))


def _pairs(tag: bytes, key: betterproto2.FieldMetadata, value: betterproto2.FieldMetadata) -> Put:
    put_key, put_value = _putting(1, key.proto_type), _putting(2, value.proto_type)

    def put(out: Out, pairs: dict[Any, Any]) -> None:
        for name, content in pairs.items():
            entry: Out = []
            put_key(entry, name)
            put_value(entry, content)
            raw = b"".join(entry)
            out += (tag, varint(len(raw)), raw)

    return put


def _reading(kind: type[Any]) -> dict[int, Reading]:
    if not _ours(kind):
        return _THEMSELVES
    known = cast(Any, kind)._betterproto
    table: dict[int, Reading] = {}
    for name, meta in known.meta_by_field_name.items():
        table |= field_reading(name, meta, known.cls_by_field[name])
    return table


def field_reading(name: str, meta: betterproto2.FieldMetadata, kind: type[Any]) -> dict[int, Reading]:
    """How a field with content of `kind` is read, by the keys that it may have."""
    length, repeated = meta.number << 3 | _LENGTH, bool(meta.repeated)
    if meta.map_meta:
        return {length: Reading(name, _pair(kind), pair=True)}
    if meta.proto_type not in _INTEGERS:
        return {length: Reading(name, _content(meta.proto_type, kind), repeated)}
    read = _INTEGERS[meta.proto_type]
    one = {meta.number << 3 | _VARINT: Reading(name, read, repeated)}
    return one | {length: Reading(name, _unpacked(read), repeated=True, whole=True)} if repeated else one


def _content(proto_type: str, kind: type[Any]) -> Read:
    if proto_type == betterproto2.TYPE_MESSAGE:
        return lambda raw: decode(kind, raw)
    return bytes.decode if proto_type == betterproto2.TYPE_STRING else bytes


def _pair(kind: type[Any]) -> Read:
    def read(raw: bytes) -> tuple[Any, Any]:
        entry = decode(kind, raw)
        return entry.key, entry.value

    return read


def _unpacked(read: Read) -> Read:
    def read_all(raw: bytes) -> list[Any]:
        found, position = [], 0
        while position < len(raw):
            number, position = read_varint(raw, position)
            found.append(read(number))
        return found

    return read_all


def _tag(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


def _signed32(value: int) -> int:
    return (value & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)


def _signed64(value: int) -> int:
    return value if value >> 63 == 0 else value - (1 << 64)


def _unsigned32(value: int) -> int:
    return value & 0xFFFFFFFF


def _unsigned64(value: int) -> int:
    return value


_INTEGERS: dict[str, Read] = {
    betterproto2.TYPE_BOOL: bool,
    betterproto2.TYPE_INT32: _signed32,
    betterproto2.TYPE_INT64: _signed64,
    betterproto2.TYPE_UINT32: _unsigned32,
    betterproto2.TYPE_UINT64: _unsigned64,
}
_BYTES_OF: dict[str, Callable[[Any], bytes]] = {
    betterproto2.TYPE_STRING: str.encode,
    betterproto2.TYPE_BYTES: bytes,
    betterproto2.TYPE_MESSAGE: encode,
}
