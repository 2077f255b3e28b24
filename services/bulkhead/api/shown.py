"""Answers kept as bytes for as long as what they show is the same object.

Who watches a container inspects it again and again. To show it takes longer than to ask the manager for it, and the
adapter gives the same object for as long as nothing of it changes. This is no state: any answer is the same without it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Shown:
    """The JSON of the `most` that were last asked for, with the newline that Go's encoder writes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[Hashable, tuple[object, dict[str, msgspec.Raw]]] = OrderedDict()

    def of(
        self, key: Hashable, found: object, show: Callable[[], Mapping[str, Any]], beside: Mapping[str, Any] = _NOTHING
    ) -> bytes:
        """What `show` makes of `found`, which must not change: what it was for this very object under `key`, if it was
        asked for before. With the values of `beside`, which may change, in place of its own."""
        known = self._known.get(key)
        if known is None or known[0] is not found:
            known = found, {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in show().items()}
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return msgspec.json.encode({**known[1], **beside}) + b"\n"
