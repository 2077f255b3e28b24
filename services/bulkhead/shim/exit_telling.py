"""Who hears of a container's end, and that its record is durable first.

If nobody waits but who puts the end on record himself, durably and before he tells of it, the record is there for
whoever comes after his death, and no disk is waited for. Many a process ends before he has come to ask: he is given a
moment.
"""

from __future__ import annotations

from collections.abc import Callable

from bulkhead.shim.exits import ExitRecord, Facts
from bulkhead.shim.loop import Loop

Hear = Callable[[ExitRecord], None]

_RETRY = 1.0
# For who puts an end on record to ask for it (seconds).
_GRACE = 0.1


class ExitTelling:
    """Of one container."""

    __slots__ = ("_facts", "_hearers", "_is_durable", "_loop", "_report", "has_company", "owes_record")

    def __init__(self, loop: Loop, report: Callable[[str, BaseException], None]) -> None:
        self._loop = loop
        self._report = report
        self._facts = Facts("")
        # And of each, whether he puts it on record himself.
        self._hearers: list[tuple[Hear, Callable[[], bool]]] = []
        self._is_durable = True
        # Whether the exit record is yet to be written: a disk has refused it.
        self.owes_record = False
        # Whether somebody is connected: who had the container created, as a rule, and is about to ask for its end.
        self.has_company: Callable[[], bool] = _no

    def claim(self, facts: Facts, *, is_durable: bool = True) -> None:
        """Whose records they are; `is_durable` is what is there already."""
        self._facts, self._is_durable = facts, is_durable

    def begin(self) -> None:
        """A new life: reserve its exit record. Raises OSError."""
        self._facts.begin()
        self._is_durable = True

    def hear(self, hear: Hear, records: Callable[[], bool] | None) -> None:
        """Call `hear` when it comes."""
        self._hearers.append((hear, records or _no))

    def hear_now(self, record: ExitRecord, hear: Hear, records: Callable[[], bool] | None) -> None:
        """It has come already."""
        if records is None or not records():
            self.settle()
        hear(record)

    def settle(self) -> None:
        """The exit record is to be durable now, if there is one."""
        if self._is_durable:
            return
        try:
            self._facts.sync_exit()
        except OSError as error:
            self._report("cannot sync the exit record", error)
        self._is_durable = True

    def persist(self, record: ExitRecord) -> None:
        """Write it, durably where it must be."""
        self._is_durable = not self._is_for_record()
        try:
            self._facts.write_exit(record, durable=self._is_durable)
        except OSError as error:
            self._is_durable = self.owes_record = True
            # Not announced before it is durable, except that a broken disk must not hide an exit for ever.
            self._report("cannot write the exit record", error)
            self._loop.later(_RETRY, lambda: self._retry(record))
        if not self._is_durable:
            self._loop.later(_GRACE, self.settle)

    def announce(self, record: ExitRecord) -> None:
        """Tell all who have asked so far."""
        hearers, self._hearers = self._hearers, []
        for hear, _ in hearers:
            hear(record)

    def _is_for_record(self) -> bool:
        """Whether all who hear of the end, or will in a moment, put it on record themselves."""
        return all(records() for _, records in self._hearers) if self._hearers else self.has_company()

    def _retry(self, record: ExitRecord) -> None:
        try:
            self._facts.write_exit(record)
        except OSError:
            self._loop.later(_RETRY, lambda: self._retry(record))
        else:
            self.owes_record = False


def _no() -> bool:
    return False
