"""A cell of the matrix: an operation, a fault at a failpoint that it passes, the recovery, and what is true after.

The six assertions of the design's section 6: (1) records equal kernel facts, (2) nothing is unowned, (3) who is not
concerned has noticed nothing, (4) the operation can be repeated, (5) exit codes and log bytes are complete, (6) the
time of recovery is on record; and a second recovery changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from bulkhead.failpoints.catalogue import POINTS
from bulkhead.model.instance import SERVICES
from tests.support import leaks
from tests.survival.matrix import facts, machine
from tests.survival.matrix.host import CALL_SECONDS, Attempt, Host, send, until
from tests.survival.matrix.rows import ROWS, Subject

HIT_SECONDS = 15.0
# An operation may be answered before it comes to its last failpoints.
LATE_SECONDS = 2.0
# An operation that failed for want of a part may be repeated until the part is there again.
REPEAT_SECONDS = 20.0
# A transaction is committed dozens of times in a pull: each of the first few is a cell.
MOST_HITS = 3
# Columns of results that are no cells'.
NO_FAULT = "no fault"
SECOND_RECOVERY = "second recovery"


class Place(Enum):
    """Which process passes a failpoint."""

    MANAGER = "manager"
    API = "api"
    SUPERVISOR = "supervisor"
    REGISTRY = "registry"
    SHIM = "shim"


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """The `number`-th time (from 0) that an operation came to a failpoint, and in which process."""

    name: str
    number: int
    place: Place

    def setting(self, action: str) -> str:
        return f"{self.name}={f'{self.number}*off->' if self.number else ''}1*{action}"

    def __str__(self) -> str:
        return f"{self.name}#{self.number + 1}" if self.number else self.name


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

    @property
    def green(self) -> bool:
        return not self.wrong


# A fault: brought about at the failpoint of one cell while the operation is under way.
Fault = Callable[[Host, Subject, Passed, Attempt], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Where a fault can strike, how it is set, and what is done when it has."""

    strikes: Callable[[Passed], bool]
    action: str
    then: Fault
    # Each process is struck at each `stride`-th of these places.
    stride: int = 1
    # The container's process ends by it: it is started again before the operation is repeated.
    ends: bool = False
    reboots: bool = False
    # All who could have known an exit code die at once.
    forgets: bool = False


def _nothing(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    """The failpoint was all."""


def _everybody_dies(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    for service in SERVICES:
        host.engine.kill(service)
    _goes_on(host, subject, passed, attempt)  # a shim lives


def _everybody_and_shim_die(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    for service in SERVICES:
        host.engine.kill(service)
    for pid in _stopped(host, passed):
        send(pid, signal.SIGKILL)
    if subject.container and (shim := host.shim_of(subject.container)):
        send(shim, signal.SIGKILL)


def _api_dies(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    host.engine.kill("api")
    _goes_on(host, subject, passed, attempt)


def _init_dies(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    """The container's first process, while the one who passes stands still."""
    for pid in _inits(host, subject):
        send(pid, signal.SIGKILL)
    _goes_on(host, subject, passed, attempt)


def _inits(host: Host, subject: Subject) -> set[int]:
    """Every process of the container."""
    from bulkhead.ctl import remains

    return {
        pid
        for parent in remains.cgroup_parents(host.engine.instance)
        if subject.container and (group := parent / subject.container).is_dir()
        for pid in remains.cgroup_pids(group)
    }


def _stands_still(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    time.sleep(STILL_SECONDS)
    _goes_on(host, subject, passed, attempt)


STILL_SECONDS = float(os.environ.get("BULKHEAD_TEST_STILL", "1.5"))
LONG_SECONDS = 30.0
# How long there are no descriptors or processes, if the operation does not end before.
STARVED_SECONDS = 2.0
HOUR = 3600.0
ONLY_FIRST = 1000


def _stands_long(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    time.sleep(LONG_SECONDS)
    _goes_on(host, subject, passed, attempt)


def _clock_is_set(seconds: float) -> Fault:
    def fault(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
        host.machine.set_clock(seconds)
        _goes_on(host, subject, passed, attempt)

    return fault


def _has_no_descriptors(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    with machine.without_descriptors(_stopped(host, passed)):
        _goes_on(host, subject, passed, attempt)
        attempt.ends(STARVED_SECONDS)


def _nobody_may_fork(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    with machine.without_processes(host.engine):
        _goes_on(host, subject, passed, attempt)
        attempt.ends(STARVED_SECONDS)


def _reboots(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    host.machine.reboot(host.engine)


def _stopped(host: Host, passed: Passed) -> list[int]:
    return [pid for pid, name, action in host.trace() if name == passed.name and action == "stop"]


def _goes_on(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    for pid in _stopped(host, passed):
        send(pid, signal.SIGCONT)


def _run_is_wiped(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    """All daemons die and the run directory is empty; containers and shims live, and the boot id is the same."""
    _everybody_dies(host, subject, passed, attempt)
    machine.wipe(host.engine.instance)


def _of(*places: Place) -> Callable[[Passed], bool]:
    return lambda passed: passed.place in places


def _first_of(*places: Place) -> Callable[[Passed], bool]:
    return lambda passed: passed.place in places and not passed.number


def _can_fail(name: str = "") -> Callable[[Passed], bool]:
    return lambda passed: POINTS[passed.name].fails and passed.name.startswith(name)


COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        "kill manager": Column(strikes=_of(Place.MANAGER), action="kill", then=_nothing),
        "kill supervisor": Column(strikes=_of(Place.SUPERVISOR), action="kill", then=_nothing),
        "kill shim": Column(strikes=_of(Place.SHIM), action="kill", then=_nothing),
        "kill api": Column(strikes=_of(Place.API, Place.MANAGER), action="stop", then=_api_dies),
        "kill registry": Column(strikes=_of(Place.REGISTRY), action="kill", then=_nothing),
        "kill all": Column(strikes=_of(Place.MANAGER, Place.SHIM), action="stop", then=_everybody_dies),
        "kill all+shim": Column(
            strikes=_of(Place.MANAGER, Place.SHIM), action="stop", then=_everybody_and_shim_die, forgets=True
        ),
        "kill init": Column(strikes=_of(Place.MANAGER, Place.SHIM), action="stop", then=_init_dies, ends=True),
        "stop manager": Column(strikes=_of(Place.MANAGER), action="stop", then=_stands_still),
        "stop api": Column(strikes=_of(Place.API), action="stop", then=_stands_still),
        "stop supervisor": Column(strikes=_of(Place.SUPERVISOR), action="stop", then=_stands_still),
        "stop shim": Column(strikes=_of(Place.SHIM), action="stop", then=_stands_still),
        "stop registry": Column(strikes=_of(Place.REGISTRY), action="stop", then=_stands_still),
        "ENOSPC": Column(strikes=_can_fail(), action="error(ENOSPC)", then=_nothing),
        "EIO": Column(strikes=_can_fail(), action="error(EIO)", then=_nothing),
        "EMFILE": Column(strikes=_can_fail("disk."), action="error(EMFILE)", then=_nothing),
        "EAGAIN on clone": Column(strikes=_can_fail("nsexec."), action="error(EAGAIN)", then=_nothing),
        "run wiped": Column(strikes=_of(Place.MANAGER, Place.SHIM), action="stop", then=_run_is_wiped),
        "reboot": Column(
            strikes=_first_of(Place.MANAGER, Place.SHIM),
            action="stop",
            then=_reboots,
            ends=True,
            reboots=True,
            stride=2,
        ),
        "clock +1 h": Column(strikes=_first_of(*Place), action="stop", then=_clock_is_set(HOUR), stride=4),
        "clock -1 h": Column(strikes=_first_of(*Place), action="stop", then=_clock_is_set(-HOUR), stride=4),
        "no descriptors": Column(strikes=_first_of(*Place), action="stop", then=_has_no_descriptors),
        "no processes": Column(strikes=_first_of(*Place), action="stop", then=_nobody_may_fork, stride=2),
        "stop 30 s": Column(strikes=_of(*Place), action="stop", then=_stands_long, stride=ONLY_FIRST),
    }
)


class Matrix:
    """Runs cells on one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._passed: dict[str, list[Passed]] = {}
        self._before = leaks.facts(host.engine.instance)

    def points(self, row: str) -> list[Passed]:
        """What a row's operation passes when nothing goes wrong, in order."""
        if row not in self._passed:
            self._passed[row] = self._trace(row)
        return self._passed[row]

    def cells(self, row: str, column: str) -> list[Passed]:
        """Where a column strikes a row."""
        struck = [passed for passed in self.points(row) if COLUMNS[column].strikes(passed)]
        stride = COLUMNS[column].stride
        return [each for place in Place for each in [passed for passed in struck if passed.place is place][::stride]]

    def run(self, row: str, column: str, passed: Passed) -> Result:
        """One cell, from its subject's birth to the last trace of it."""
        result = Result(row=row, column=column, point=str(passed))
        began = time.monotonic()
        with self._cleared(result):
            subject = ROWS[row](self.host)
            self._strike(subject, COLUMNS[column], passed, result)
            wrong = self._after(subject, COLUMNS[column])
            # Never guessed: whoever cannot know the code says so.
            stated = COLUMNS[column].forgets and self.host.has_lost(subject.container, "exit code")
            result.wrong += [each for each in wrong if not (stated and "ExitCode is 255" in each)]
        result.seconds = time.monotonic() - began
        return result

    def _strike(self, subject: Subject, column: Column, passed: Passed, result: Result) -> None:
        host = self.host
        host.set(passed.setting(column.action))
        attempt = Attempt(subject.act)
        word = column.action.partition("(")[0]

        def hit() -> bool:
            return any(name == passed.name and what == word for _, name, what in host.trace())

        until(lambda: attempt.over or hit(), HIT_SECONDS)
        result.passed = until(hit, LATE_SECONDS)
        if result.passed:
            column.then(host, subject, passed, attempt)
            if column.action == "kill" and passed.place is not Place.SHIM:
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
            self.host.wake()
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
            # Told once: the next cells are not to blame.
            self._before = leaks.facts(host.engine.instance)
        return wrong + [f"left: {each}" for each in left if " descriptors " not in each]

    def unharmed(self, row: str) -> Result:
        """Whether a row's operation does what it ought to without any fault."""
        result = Result(row=row, column=NO_FAULT, point="")
        with self._cleared(result):
            self.points(row)
        return result

    def recovered(self) -> Result:
        """A second recovery's own result."""
        result = Result(row="all", column=SECOND_RECOVERY, point="")
        with _told(result):
            result.wrong += self.second_recovery()
        return result

    def second_recovery(self) -> list[str]:
        """What a recovery of what is recovered changes."""
        before = facts.snapshot(self.host.engine)
        self.host.engine.kill("manager")
        self.host.recover()
        after = facts.snapshot(self.host.engine)
        return [f"a second recovery changed {key[:12]}" for key in facts.changed(before, after)]

    def _trace(self, row: str) -> list[Passed]:
        host = self.host
        subject = ROWS[row](host)
        host.set("*=print")
        services = {host.engine.pid(service): Place(service) for service in SERVICES}
        try:
            subject.act()
            requests = sum(name == "api.request.begun" for _, name, _ in host.trace())
            until(lambda: not subject.done(), 5.0)
        finally:
            lines = host.trace()
            host.set("")
        seen: Counter[str] = Counter()
        found = []
        for pid, name, _ in lines:
            # Later requests are those that have asked whether it is done.
            if seen[name] < (min(MOST_HITS, requests) if name.startswith("api.request.") else MOST_HITS):
                found.append(Passed(name=name, number=seen[name], place=services.get(pid, Place.SHIM)))
            seen[name] += 1
        wrong = subject.done() + facts.settled(host.engine) + self._clear()
        if wrong:
            raise AssertionError(f"{row}: wrong without any fault: {wrong}")
        return found


@contextlib.contextmanager
def _told(result: Result) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        result.wrong.append(f"{type(error).__name__}: {error}")
