"""Domain types to protobuf and back with no message in between, for those that are on the way of each container.

What is written and read is what `convert` and `protobuf` together would make of it: a contract test holds them against
each other. But a message of seventy fields of which five say something is made of these five. Enums are none of it.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from itertools import compress
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, cast

from bulkhead.model.replacing import replace
from bulkhead.wire import protobuf
from bulkhead.wire.convert import to_model, unwrapped
from bulkhead.wire.gen.bulkhead.types.v1 import StringList
from bulkhead.wire.protobuf import Put, Read, Reading

T = TypeVar("T")


class _Writing(NamedTuple):
    """How a type is written: fields that are left out when they are empty, and those that tell this from None."""

    values: Callable[[Any], tuple[Any, ...]]
    puts: tuple[Put, ...]
    telling: tuple[tuple[str, Put], ...]


class _Reading(NamedTuple):
    """How a type is read: what an empty message is, and what fields there are besides; `several` are tuples."""

    empty: Any
    table: dict[int, Reading]
    several: frozenset[str]


_WRITING: dict[tuple[type[Any], type[Any]], _Writing] = {}
_READING: dict[tuple[type[Any], type[Any]], _Reading] = {}


def encode(message: type[Any], record: Any) -> bytes:
    """The dataclass `record` as the message of that class."""
    plan = _WRITING.get((message, type(record))) or _writing(message, type(record))
    out: list[bytes] = []
    values = plan.values(record)
    # Most say nothing.
    for put, value in compress(zip(plan.puts, values, strict=True), values):
        put(out, value)
    for name, put in plan.telling:
        value = getattr(record, name)
        if value is not None:
            put(out, value)
    return b"".join(out)


def decode(model: type[T], message: type[Any], data: bytes) -> T:
    """The dataclass of type `model` that the bytes of such a message describe; ValueError when they do not."""
    plan = _READING.get((message, model)) or _reading(message, model)
    try:
        values, _ = protobuf.fields_of(plan.table, data)
    except (IndexError, ValueError, EOFError) as error:
        raise ValueError(f"cannot decode {model.__name__}: {error}") from error
    if not values:
        return cast(T, plan.empty)
    for name, value in values.items():
        if name in plan.several:
            values[name] = tuple(value)
    return cast(T, replace(plan.empty, **values))


# -- plans


def _fields(message: type[Any], model: type[Any]) -> dict[str, tuple[Any, Any, Any]]:
    """By name, of what both have: the type in the domain, the field's description and the class of its content."""
    known, hints = message._betterproto, typing.get_type_hints(model)
    described = known.meta_by_field_name
    names = [each.name for each in dataclasses.fields(model) if each.name in described]
    return {name: (hints[name], described[name], known.cls_by_field[name]) for name in names}


def _writing(message: type[Any], model: type[Any]) -> _Writing:
    plain: dict[str, Put] = {}
    telling: list[tuple[str, Put]] = []
    for name, (hint, meta, kind) in _fields(message, model).items():
        tells = protobuf.field_writing(name, meta).tells
        put = _putting(hint, meta, kind)
        if tells:
            telling.append((name, put))
        else:
            plain[name] = put
    plan = _Writing(_all_of(tuple(plain)), tuple(plain.values()), tuple(telling))
    return _WRITING.setdefault((message, model), plan)


def _all_of(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda record: tuple(getattr(record, name) for name in names)


def _putting(hint: Any, meta: Any, kind: type[Any]) -> Put:
    """How a domain value of type `hint` is written to a field with content of `kind`."""
    hint, _ = unwrapped(hint)
    if kind is StringList:
        return protobuf.lengthy(meta.number, _string_list)
    if dataclasses.is_dataclass(hint):
        return protobuf.lengthy(meta.number, lambda value: encode(kind, value))
    if typing.get_origin(hint) is tuple and dataclasses.is_dataclass(typing.get_args(hint)[0]):
        return protobuf.each_of(protobuf.lengthy(meta.number, lambda value: encode(kind, value)))
    return protobuf.field_writing("", meta).put


def _string_list(items: Any) -> bytes:
    return protobuf.encode(StringList(items=list(items)))


def _reading(message: type[Any], model: type[Any]) -> _Reading:
    table: dict[int, Reading] = {}
    several: set[str] = set()
    for name, (hint, meta, kind) in _fields(message, model).items():
        read = _content(hint, kind)
        for key, field in protobuf.field_reading(name, meta, kind).items():
            table[key] = field if read is None else field._replace(read=read)
        if meta.repeated:
            several.add(name)
    plan = _Reading(to_model(model, message()), table, frozenset(several))
    return _READING.setdefault((message, model), plan)


def _content(hint: Any, kind: type[Any]) -> Read | None:
    """How content of `kind` becomes a domain value of type `hint`; None where it is one as it is read."""
    hint, _ = unwrapped(hint)
    if kind is StringList:
        return lambda raw: tuple(protobuf.decode(StringList, raw).items)
    if typing.get_origin(hint) is tuple:
        hint = typing.get_args(hint)[0]
    if dataclasses.is_dataclass(hint):
        inner = cast(type[Any], hint)
        return lambda raw: decode(inner, kind, raw)
    return None
