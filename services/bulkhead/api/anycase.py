"""A JSON body as Go's decoder takes it: keys in any case (docker-py sends `detachKeys`, people `image`), and null for
an empty thing where a list or a map has one (`{"Labels": {"a": null}}`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, cast

import msgspec
from msgspec.inspect import DictType, Field, ListType, StrType, StructType, Type, UnionType, type_info

_LOWER_KEY = re.compile(rb'[{,]\s*"[a-z][A-Za-z0-9]*"\s*:')


def perhaps(data: bytes) -> bool:
    """Whether a document has keys that may be another case of ours; cheap, and mostly no."""
    return _LOWER_KEY.search(data) is not None


def convert(data: bytes, kind: type[Any]) -> Any:
    """Decode `data` as `kind`; a key as the struct names it wins over one of another case.

    Raises msgspec.DecodeError, or its ValidationError.
    """
    return msgspec.convert(_named(msgspec.json.decode(data), _description(cast(Any, kind))), kind)


_description = lru_cache(maxsize=64)(type_info)


def _named(value: Any, kind: Type) -> Any:
    for each in kind.types if isinstance(kind, UnionType) else (kind,):
        if isinstance(value, dict) and isinstance(each, StructType):
            return _of_struct(value, _fields(each))
        if isinstance(value, dict) and isinstance(each, DictType):
            return {key: _element(inner, each.value_type) for key, inner in value.items()}
        if isinstance(value, list) and isinstance(each, ListType):
            return [_element(inner, each.item_type) for inner in value]
    return value


def _element(value: Any, kind: Type) -> Any:
    """What is in a list or a map."""
    return _ZERO[type(kind)]() if value is None and type(kind) in _ZERO else _named(value, kind)


_ZERO: Mapping[type[Type], Callable[[], Any]] = {StrType: str, StructType: dict, DictType: dict, ListType: list}


def _of_struct(value: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, inner in value.items():
        field = fields.get(key.lower())
        if field is None or (key != field.encode_name and field.encode_name in value):
            continue
        made[field.encode_name] = _named(inner, field.type)
    return made


def _fields(kind: StructType) -> dict[str, Field]:
    return {field.encode_name.lower(): field for field in kind.fields}
