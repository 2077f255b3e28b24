"""Messages to domain types and back, by field name: both sides spell their fields alike.

`to_message` and `to_model` walk frozen dataclasses and generated messages in parallel. A domain type may leave
fields of its message out and the reverse: what one side lacks keeps the other side's default. Plans are made
once per pair of types, so that a conversion is a list of attribute copies.

Special shapes: `tuple[str, ...] | None` is an optional StringList; an Enum travels as its value; `None` of a
nested type is the absent message.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

import betterproto2

from bulkhead.wire.gen.bulkhead.types.v1 import StringList

M = TypeVar("M", bound=betterproto2.Message)
T = TypeVar("T")
Copy = Callable[[Any], Any]
Plan = Callable[[Any], dict[str, Any]]

_MESSAGE_PLANS: dict[tuple[type[Any], type[Any]], Plan] = {}
_MODEL_PLANS: dict[tuple[type[Any], type[Any]], Plan] = {}


def to_message(kind: type[M], value: Any) -> M:
    """The message of type `kind` that says what the dataclass `value` says."""
    plan = _MESSAGE_PLANS.get((kind, type(value))) or _message_plan(kind, type(value))
    return kind(**plan(value))


def to_model(kind: type[T], message: betterproto2.Message) -> T:
    """The dataclass of type `kind` that `message` describes."""
    plan = _MODEL_PLANS.get((kind, type(message))) or _model_plan(kind, type(message))
    return kind(**plan(message))


def _message_plan(kind: type[Any], source: type[Any]) -> Plan:
    targets = _annotations(kind)
    copies = {name: _outward(hint, targets[name]) for name, hint in _annotations(source).items() if name in targets}
    return _MESSAGE_PLANS.setdefault((kind, source), _plan(copies))


def _model_plan(kind: type[Any], source: type[Any]) -> Plan:
    sources = _annotations(source)
    copies = {name: _inward(hint) for name, hint in _annotations(kind).items() if name in sources}
    return _MODEL_PLANS.setdefault((kind, source), _plan(copies))


def _plan(copies: Mapping[str, Copy]) -> Plan:
    """The values for a constructor; most are handed over as they are."""
    plain = tuple(name for name, copy in copies.items() if copy is _same)
    others = tuple((name, copy) for name, copy in copies.items() if copy is not _same)

    def values(source: Any) -> dict[str, Any]:
        found = {name: getattr(source, name) for name in plain}
        for name, copy in others:
            found[name] = copy(getattr(source, name))
        return found

    return values


def _annotations(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _same(value: Any) -> Any:
    return value


def _outward(hint: Any, target: Any) -> Copy:
    """How a domain value of type `hint` becomes a message field of type `target`."""
    hint, _ = unwrapped(hint)
    target, _ = unwrapped(target)
    if target is StringList:
        return lambda value: None if value is None else StringList(items=list(value))
    if dataclasses.is_dataclass(hint):
        return lambda value: None if value is None else to_message(target, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return lambda value: value.value
    if typing.get_origin(hint) is tuple:
        item = _outward(typing.get_args(hint)[0], typing.get_args(target)[0])
        return list if item is _same else lambda value: [item(each) for each in value]
    if typing.get_origin(hint) in (dict, Mapping) or _is_mapping(hint):
        return dict
    return _same


def _inward(hint: Any) -> Copy:
    """How a message field becomes a domain value of type `hint`."""
    hint, optional = unwrapped(hint)
    if typing.get_origin(hint) is tuple and optional:
        return lambda value: None if value is None else tuple(value.items)
    if dataclasses.is_dataclass(hint):
        kind = typing.cast(type[Any], hint)
        empty = (lambda: None) if optional else kind
        return lambda value: empty() if value is None else to_model(kind, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    if typing.get_origin(hint) is tuple:
        item = _inward(typing.get_args(hint)[0])
        return tuple if item is _same else lambda value: tuple(item(each) for each in value)
    if _is_mapping(hint):
        return dict
    return _same


def _is_mapping(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def unwrapped(hint: Any) -> tuple[Any, bool]:
    """`X | None` as (X, True), anything else as (X, False)."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        inner = [each for each in typing.get_args(hint) if each is not type(None)]
        return inner[0], True
    return hint, False
