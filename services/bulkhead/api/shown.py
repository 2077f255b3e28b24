"""Answers kept as bytes for as long as what they show is the same object.

Who watches a container inspects it again and again. To show it takes longer than to ask the manager for it, and the
adapter gives the same object for as long as nothing of it changes. This is no state: any answer is the same without it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import msgspec


class Shown:
    """The JSON of the `most` that were last asked for, with the newline that Go's encoder writes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[Hashable, tuple[object, bytes]] = OrderedDict()

    def of(self, key: Hashable, found: object, show: Callable[[], Any]) -> bytes:
        """What `show` makes of `found`, which must not change: what it was for this very object under `key`, if it was
        asked for before."""
        known = self._known.get(key)
        if known is None or known[0] is not found:
            known = found, msgspec.json.encode(show()) + b"\n"
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return known[1]
