"""`dataclasses.replace` for records that change at each step of a container's life, at a fifth of its cost.

The standard one looks at each field's description and calls __init__ with all of them by name: 25 us for a container,
twenty times in a life. A record with slots and without __post_init__ is its slots' values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from operator import attrgetter
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, NamedTuple


class _Slots(NamedTuple):
    """How a class's slots are read, all at once, and written, by name and in the same order."""

    read: Callable[[Any], tuple[Any, ...]]
    write: dict[str, Callable[[Any, Any], None]]


def _replace(record: Any, /, **changes: Any) -> Any:
    """A dataclass's instance with other values of some fields. Raises TypeError for a field that it has not."""
    kind: Any = type(record)
    slots = _slots(kind)
    if slots is None:
        return dataclasses.replace(record, **changes)
    changed = kind.__new__(kind)
    for write, value in zip(slots.write.values(), slots.read(record), strict=True):
        write(changed, value)
    for name, value in changes.items():
        if name not in slots.write:
            raise TypeError(f"{kind.__name__} has no field {name!r}")
        slots.write[name](changed, value)
    return changed


@cache
def _slots(kind: Any) -> _Slots | None:
    """None for a class whose instances are more than the values of two or more slots."""
    fields = dataclasses.fields(kind)
    names = [each.name for each in fields]
    plain = all(each.init for each in fields) and not hasattr(kind, "__post_init__")
    slots = [each for each in map(kind.__dict__.get, names) if isinstance(each, MemberDescriptorType)]
    if not plain or len(names) < 2 or len(slots) != len(names):
        return None
    return _Slots(attrgetter(*names), {each.__name__: each.__set__ for each in slots})


if TYPE_CHECKING:
    # Type checkers know each field's type by this name alone.
    from dataclasses import replace as replace
else:
    replace = _replace
