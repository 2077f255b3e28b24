"""The execs that are on record, found by id, by container and by short id without a look at all of them.

A health check or an impatient script makes thousands in the minutes for which they are remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bulkhead.model.execs import Exec
from bulkhead.model.ids import short


class ExecIndex:
    """A mirror of what has been committed, or is about to be; oldest first."""

    def __init__(self, execs: Iterable[Exec] = ()) -> None:
        self._by_id: dict[str, Exec] = {}
        self._by_container: dict[str, dict[str, Exec]] = {}
        self.short_ids: set[str] = set()
        for each in execs:
            self.put(each)

    def __iter__(self) -> Iterator[Exec]:
        return iter(self._by_id.values())

    def get(self, exec_id: str) -> Exec | None:
        return self._by_id.get(exec_id)

    def of(self, container_id: str) -> list[Exec]:
        """Those of one container."""
        return list(self._by_container.get(container_id, {}).values())

    def put(self, record: Exec) -> None:
        """Add it, or what has become of it."""
        self._by_id[record.id] = record
        self._by_container.setdefault(record.container_id, {})[record.id] = record
        self.short_ids.add(short(record.id))

    def drop(self, exec_ids: Iterable[str]) -> None:
        """Forget them; those that are not known are none."""
        for each in exec_ids:
            gone = self._by_id.pop(each, None)
            if gone is None:
                continue
            self.short_ids.discard(short(each))
            siblings = self._by_container[gone.container_id]
            del siblings[each]
            if not siblings:
                del self._by_container[gone.container_id]
