"""The execs that are on record, found by id, by container and by short id without a look at all of them.

A health check or an impatient script makes thousands in the minutes for which they are remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bulkhead.model.execs import Exec, ExecPhase
from bulkhead.model.ids import short


class ExecIndex:
    """A mirror of what has been committed, or is about to be; oldest first."""

    def __init__(self, execs: Iterable[Exec] = ()) -> None:
        self._by_id: dict[str, Exec] = {}
        self._by_container: dict[str, dict[str, Exec]] = {}
        # Each inspect of a container tells of them: those that have ended are many more, and are not looked at.
        self._unended: dict[str, dict[str, Exec]] = {}
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

    def unended(self, container_id: str) -> list[Exec]:
        """Those of one container that have not ended."""
        return list(self._unended.get(container_id, {}).values())

    def put(self, record: Exec) -> None:
        """Add it, or what has become of it."""
        self._by_id[record.id] = record
        self._by_container.setdefault(record.container_id, {})[record.id] = record
        self.short_ids.add(short(record.id))
        if record.phase is ExecPhase.EXITED:
            _take(self._unended, record)
        else:
            self._unended.setdefault(record.container_id, {})[record.id] = record

    def drop(self, exec_ids: Iterable[str]) -> None:
        """Forget them; those that are not known are none."""
        for each in exec_ids:
            gone = self._by_id.pop(each, None)
            if gone is None:
                continue
            self.short_ids.discard(short(each))
            _take(self._by_container, gone)
            _take(self._unended, gone)


def _take(among: dict[str, dict[str, Exec]], record: Exec) -> None:
    """Out of its container's, if it is there; nothing is left of a container that has none."""
    siblings = among.get(record.container_id)
    if siblings is not None and siblings.pop(record.id, None) is not None and not siblings:
        del among[record.container_id]
