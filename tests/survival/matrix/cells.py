"""A cell of the matrix: an operation, a fault at a failpoint that it passes, the recovery, and what is true after.

The six assertions of the design's section 6: (1) records equal kernel facts, (2) nothing is unowned, (3) who is not
concerned has noticed nothing, (4) the operation can be repeated, (5) exit codes and log bytes are complete, (6) the
time of recovery is on record; and a second recovery changes nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from bulkhead.model.instance import SERVICES
from bulkhead.registry.collection import RECORD_SECONDS
from tests.support import leaks
from tests.survival.matrix import facts
from tests.survival.matrix.columns import COLUMNS, NO_FAULT, SECOND_RECOVERY, Column, Fault, Passed, Place, Way
from tests.survival.matrix.host import CALL_SECONDS, Attempt, Host, until
from tests.survival.matrix.rows import ROWS, Subject

HIT_SECONDS = 15.0
# An operation may be answered before it comes to its last failpoints.
LATE_SECONDS = 2.0
REST_SECONDS = 1.0
# An operation that failed for want of a part may be repeated until the part is there again.
REPEAT_SECONDS = 20.0
# A transaction is committed dozens of times in a pull: each of the first few is a cell.
MOST_HITS = 3


@dataclass(slots=True, kw_only=True)
class Result:
    """What became of a cell."""

    row: str
    column: str
    point: str
    wrong: list[str] = field(default_factory=list)
    recovery: float = 0.0
    seconds: float = 0.0
    passed: bool = True
    said: str = ""
    # Why there is no such cell.
    lacking: str = ""

    @property
    def green(self) -> bool:
        return not self.wrong


class Matrix:
    """Runs cells on one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._ways: dict[str, Way] = {}
        self._before = leaks.facts(host.engine.instance)

    def way(self, row: str) -> Way:
        """What a row's operation passes when nothing goes wrong."""
        if row not in self._ways:
            self._ways[row] = self._trace(row)
        return self._ways[row]

    def run(self, row: str, column: str, passed: Passed) -> Result:
        """One cell, from its subject's birth to the last trace of it."""
        result = Result(row=row, column=column, point=str(passed))
        began = time.monotonic()
        with self._cleared(result):
            subject = ROWS[row](self.host)
            if _may_be_of_registry(passed):
                self.host.registry_rests()
            self._strike(subject, *COLUMNS[column].doing(passed), passed, result)
            wrong = self._after(subject, COLUMNS[column])
            # Never guessed: whoever cannot know the code says so.
            stated = COLUMNS[column].forgets and self.host.has_lost(subject.container, "exit code")
            result.wrong += [each for each in wrong if not (stated and "ExitCode is 255" in each)]
        result.seconds = time.monotonic() - began
        return result

    def _strike(self, subject: Subject, action: str, then: Fault, passed: Passed, result: Result) -> None:
        host = self.host
        host.set(passed.setting(action))
        attempt = Attempt(subject.act)
        word = action.partition("(")[0]

        def hit() -> bool:
            return any(name == passed.name and what == word for _, name, what in host.trace())

        until(lambda: attempt.over or hit(), HIT_SECONDS)
        result.passed = until(hit, LATE_SECONDS + (RECORD_SECONDS if passed.place is Place.REGISTRY else 0))
        if result.passed:
            then(host, subject, passed, attempt)
            if action == "kill" and passed.place is not Place.SHIM:
                until(lambda: host.engine.pid(passed.place.value) is None, HIT_SECONDS)
        result.recovery = host.recover()
        if not attempt.ends(CALL_SECONDS):
            result.wrong.append("the operation has not ended")
        host.set("")
        host.wake()  # one that came there as the counts began anew
        result.said = str(attempt.error or "")

    def _after(self, subject: Subject, column: Column) -> list[str]:
        wrong = [f"after recovery: {each}" for each in facts.settled(self.host.engine)]
        if column.reboots:
            wrong += self.host.bystander_ended()
        if column.ends:
            self.host.revive(subject.container)
        wrong += self._again(subject)
        wrong += [f"after the repetition: {each}" for each in facts.settled(self.host.engine)]
        wrong += self.host.bystander_noticed()
        return wrong

    def _again(self, subject: Subject) -> list[str]:
        """The operation can be repeated, and does what it ought to."""
        said: list[str] = []

        def works() -> bool:
            said.clear()
            try:
                subject.act()
            except Exception as error:
                said.append(f"repeated: {error!r}")
            return not said

        if not until(works, REPEAT_SECONDS):
            return said
        until(lambda: not subject.done(), 5.0)
        return [f"in the end: {each}" for each in subject.done()]

    @contextlib.contextmanager
    def _cleared(self, result: Result) -> Iterator[None]:
        """Whatever happens is a result, and the next cell finds the host as this one did."""
        with _told(result):
            yield
        with _told(result):
            self.host.machine.set_clock(0)
            self.host.set("")
            if result.wrong:
                self.host.wake()
                # Who was late to serve is waited for, and who has ended is replaced: the next cells are not to blame.
                self.host.engine.start()
                result.wrong += [each for each in self.host.without_harmed_bystander() if each not in result.wrong]
            self.host.recover()
            result.wrong += self._clear()
        if not self.host.has_bystander:
            with _told(result):
                self.host.place_bystander()
                self._before = leaks.facts(self.host.engine.instance)

    def _clear(self) -> list[str]:
        """Remove what the cell has made; what cannot be removed, or is left."""
        host = self.host
        wrong: list[str] = []
        for each in host.call("GET", "/containers/json?all=1").json or []:
            if "subject" in each["Names"][0] or "bystander" not in each["Names"][0]:
                answer = host.call("DELETE", f"/containers/{each['Id']}?force=1&v=1")
                if answer.status not in (204, 404):
                    wrong.append(f"cannot remove: {answer.status} {answer.body!r}")
        for each in host.call("GET", "/networks").json or []:
            if each["Name"].startswith("subject"):
                host.call("DELETE", f"/networks/{each['Id']}")
        for each in (host.call("GET", "/volumes").json or {}).get("Volumes") or []:
            host.call("DELETE", f"/volumes/{each['Name']}?force=1")
        left = leaks.left_after(host.engine.instance, self._before)
        if left:
            # Told once: the next cells are not to blame. What no record owns is swept by a recovery.
            host.engine.kill("manager")
            host.recover()
            self._before = leaks.facts(host.engine.instance)
        return wrong + [f"left: {each}" for each in left if " descriptors " not in each]

    def unharmed(self, row: str) -> Result:
        """Whether a row's operation does what it ought to without any fault."""
        result = Result(row=row, column=NO_FAULT, point="")
        with self._cleared(result):
            self.way(row)
        return result

    def recovered(self, row: str) -> Result:
        """Of what a row's operation has left: what a recovery of what is recovered changes."""
        result = Result(row=row, column=SECOND_RECOVERY, point="")
        began = time.monotonic()
        with self._cleared(result):
            subject = ROWS[row](self.host)
            subject.act()
            until(lambda: not subject.done(), 5.0)
            self.host.engine.kill("manager")
            result.recovery = self.host.recover()
            result.wrong += facts.settled(self.host.engine) + self.second_recovery() + subject.done()
        result.seconds = time.monotonic() - began
        return result

    def second_recovery(self) -> list[str]:
        """What a recovery of what is recovered changes."""
        before = facts.snapshot(self.host.engine)
        self.host.engine.kill("manager")
        self.host.recover()
        after = facts.snapshot(self.host.engine)
        return [f"a second recovery changed {key[:12]}" for key in facts.changed(before, after)]

    def _trace(self, row: str) -> Way:
        host = self.host
        subject = ROWS[row](host)
        # What comes of an earlier push is not on this operation's way; what comes of this one is.
        host.registry_rests()
        host.set("*=print")
        services = {host.engine.pid(service): Place(service) for service in SERVICES}
        try:
            subject.act()
            # Before it is asked whether it is done, which passes failpoints too.
            _at_rest(host)
            host.registry_rests()
            lines = _at_rest(host)
            until(lambda: not subject.done(), 5.0)
        finally:
            host.set("")
        seen: Counter[str] = Counter()
        found = []
        for pid, name, _ in lines:
            if seen[name] < MOST_HITS:
                found.append(Passed(name=name, number=seen[name], place=services.get(pid, Place.SHIM)))
            seen[name] += 1
        wrong = subject.done() + facts.settled(host.engine) + self._clear()
        if wrong:
            raise AssertionError(f"{row}: wrong without any fault: {wrong}")
        return Way(points=tuple(found), has_container=bool(subject.container))


def _may_be_of_registry(passed: Passed) -> bool:
    """Whether the registry, writing what comes of an earlier push, would come there too."""
    return passed.place is Place.REGISTRY or passed.name.startswith("disk.")


def _at_rest(host: Host) -> list[tuple[int, str, str]]:
    """What has been passed, once nothing more has been for a while: the answer may come before the end."""
    lines: list[tuple[int, str, str]] = []
    while len(now := host.trace()) > len(lines):
        lines = now
        time.sleep(REST_SECONDS)
    return lines


@contextlib.contextmanager
def _told(result: Result) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        result.wrong.append(f"{type(error).__name__}: {error}")
