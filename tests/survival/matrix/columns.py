"""The columns of the matrix: which faults there are, where each can strike, and how it is brought about."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from bulkhead.ctl import remains
from bulkhead.failpoints.catalogue import POINTS
from bulkhead.linux import process
from bulkhead.model.instance import SERVICES
from tests.survival.matrix import machine
from tests.survival.matrix.host import Attempt, Host, send, until
from tests.survival.matrix.rows import Subject

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


# A fault: brought about at the failpoint of one cell while the operation is under way.
Fault = Callable[[Host, Subject, Passed, Attempt], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What a row's operation passes when nothing goes wrong, in order; and whether it is one of a single container."""

    points: tuple[Passed, ...]
    has_container: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Where a fault can strike, how it is set, and what is done when it has; `lacking`: why a row has no such cell."""

    strikes: Callable[[Passed], bool]
    action: str
    then: Fault
    lacking: str = ""
    # The fault of a process that passes nothing itself: it suffers while the manager stands at one of its own places.
    beside: Fault | None = None
    # Only a container has what the fault is about.
    of_container: bool = False
    # Each process is struck at each `stride`-th of these places.
    stride: int = 1
    # The container's process ends by it: it is started again before the operation is repeated.
    ends: bool = False
    reboots: bool = False
    # All who could have known an exit code die at once.
    forgets: bool = False

    def struck(self, way: Way) -> list[Passed]:
        """Every place of a way where this can happen."""
        if self.of_container and not way.has_container:
            return []
        found = [passed for passed in way.points if self.strikes(passed)]
        if not found and self.beside is not None and way.has_container:
            found = [passed for passed in way.points if passed.place is Place.MANAGER]
        return found

    def cells(self, way: Way) -> list[Passed]:
        """The same, each process at each `stride`-th of its places."""
        struck = self.struck(way)
        return [
            each for place in Place for each in [passed for passed in struck if passed.place is place][:: self.stride]
        ]

    def doing(self, passed: Passed) -> tuple[str, Fault]:
        """What the failpoint does there, and what is done then."""
        if self.beside is not None and not self.strikes(passed):
            return "stop", self.beside
        return self.action, self.then


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
SECONDS_TO_STOP = 2.0
_NO_CONTAINER = "it is about no container with a shim"
_NO_REGISTRY = "no registry is asked"
# How long there are no descriptors or processes, if the operation does not end before.
STARVED_SECONDS = 2.0
HOUR = 3600.0
# Of each process.
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
        # It says so a moment before it does.
        until(functools.partial(_stands, pid), SECONDS_TO_STOP)
        send(pid, signal.SIGCONT)


def _stands(pid: int) -> bool:
    """Or is gone."""
    return process.is_stopped(pid) or process.start_time(pid) is None


def _run_is_wiped(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    """All daemons die and the run directory is empty; containers and shims live, and the boot id is the same."""
    _everybody_dies(host, subject, passed, attempt)
    machine.wipe(host.engine.instance)


def _supervisor_dies(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    host.engine.kill("supervisor")
    _goes_on(host, subject, passed, attempt)


def _shim_dies(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    if shim := host.shim_of(subject.container):
        send(shim, signal.SIGKILL)
    _goes_on(host, subject, passed, attempt)


def _supervisor_stands_still(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    _stands_beside(host.engine.pid("supervisor"), host, subject, passed, attempt)


def _shim_stands_still(host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    _stands_beside(host.shim_of(subject.container), host, subject, passed, attempt)


def _stands_beside(pid: int | None, host: Host, subject: Subject, passed: Passed, attempt: Attempt) -> None:
    if pid:
        send(pid, signal.SIGSTOP)
    _goes_on(host, subject, passed, attempt)
    time.sleep(STILL_SECONDS)
    if pid:
        send(pid, signal.SIGCONT)


def _of(*places: Place) -> Callable[[Passed], bool]:
    return lambda passed: passed.place in places


def _first_of(*places: Place) -> Callable[[Passed], bool]:
    return lambda passed: passed.place in places and not passed.number


def _can_fail(name: str = "") -> Callable[[Passed], bool]:
    return lambda passed: POINTS[passed.name].fails and passed.name.startswith(name)


COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        "kill manager": Column(strikes=_of(Place.MANAGER), action="kill", then=_nothing),
        "kill supervisor": Column(
            strikes=_of(Place.SUPERVISOR), action="kill", then=_nothing, beside=_supervisor_dies, lacking=_NO_CONTAINER
        ),
        "kill shim": Column(
            strikes=_of(Place.SHIM), action="kill", then=_nothing, beside=_shim_dies, lacking=_NO_CONTAINER
        ),
        "kill api": Column(strikes=_of(Place.API, Place.MANAGER), action="stop", then=_api_dies),
        "kill registry": Column(strikes=_of(Place.REGISTRY), action="kill", then=_nothing, lacking=_NO_REGISTRY),
        "kill all": Column(strikes=_of(Place.MANAGER, Place.SHIM), action="stop", then=_everybody_dies),
        "kill all+shim": Column(
            strikes=_of(Place.MANAGER, Place.SHIM), action="stop", then=_everybody_and_shim_die, forgets=True
        ),
        "kill init": Column(
            strikes=_of(Place.MANAGER, Place.SHIM),
            action="stop",
            then=_init_dies,
            ends=True,
            of_container=True,
            lacking=_NO_CONTAINER,
        ),
        "stop manager": Column(strikes=_of(Place.MANAGER), action="stop", then=_stands_still),
        "stop api": Column(strikes=_of(Place.API), action="stop", then=_stands_still),
        "stop supervisor": Column(
            strikes=_of(Place.SUPERVISOR),
            action="stop",
            then=_stands_still,
            beside=_supervisor_stands_still,
            lacking=_NO_CONTAINER,
        ),
        "stop shim": Column(
            strikes=_of(Place.SHIM), action="stop", then=_stands_still, beside=_shim_stands_still, lacking=_NO_CONTAINER
        ),
        "stop registry": Column(strikes=_of(Place.REGISTRY), action="stop", then=_stands_still, lacking=_NO_REGISTRY),
        "ENOSPC": Column(strikes=_can_fail(), action="error(ENOSPC)", then=_nothing, lacking="it writes nothing"),
        "EIO": Column(strikes=_can_fail(), action="error(EIO)", then=_nothing, lacking="it writes nothing"),
        "EMFILE": Column(
            strikes=_can_fail("disk."),
            action="error(EMFILE)",
            then=_nothing,
            lacking="it opens no file to write (see no descriptors)",
        ),
        "EAGAIN on clone": Column(
            strikes=_can_fail("nsexec."),
            action="error(EAGAIN)",
            then=_nothing,
            lacking="it starts no process (see no processes)",
        ),
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
