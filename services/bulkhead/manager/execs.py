"""Further processes in running containers: create, start, inspect, resize; their end is recorded.

An attached exec is only registered here, as soon as it is created: it runs when the client's stream dials the shim (see
the data road in design.md 4), and its record says so a little later. Until then the shim is asked. Where the shim keeps
what it was asked to expect, the disk is not waited for: an exec outlives its shim as little as its container outlives
the machine, so the record is written with the next one, of a brief exec's end as a rule, and a manager that comes
before that has happened is told by the shim. Records live in the same store as containers', go with their container, or
five minutes after the end; earlier when thousands ended since.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from bulkhead import failpoints
from bulkhead.errors import BulkheadError, Conflict, InvalidArgument, LaunchFailed, NotFound
from bulkhead.manager import links, oci
from bulkhead.manager.actors import Actors
from bulkhead.manager.announcements import of_container
from bulkhead.manager.bundles import hostname
from bulkhead.manager.new_execs import NewExecs
from bulkhead.manager.oci_resources import rlimits
from bulkhead.manager.planning import ProcessPlans
from bulkhead.manager.ports import AskedExec, ExecState, Expecting, KnownExec, Lasting, Records, Shim, Shims
from bulkhead.model.container import Container
from bulkhead.model.events import Event
from bulkhead.model.execs import Exec, ExecPhase, ExecSpec
from bulkhead.model.ids import container_of, new_exec_id, short
from bulkhead.model.instance import Instance
from bulkhead.model.lifecycle import Phase
from bulkhead.model.losses import Lost

log = structlog.get_logger()
KEPT_NS = 300 * 1_000_000_000
# Where many end within that time: dockerd keeps them all, two kilobytes each.
MOST_ENDED = 2048
# So many shims' calls at a time are open for execs that may begin: who creates and never starts some must not fill our
# memory with them.
MOST_EXPECTED = 64
# So many records of execs may be in memory alone: their shims, which would tell a later manager, keep 64 that ended.
MOST_OWED = 48
SWEEP_SECONDS = 10.0
_START_SECONDS = 60.0
_RESIZE_SECONDS = 10.0
_SUCCESSOR_SECONDS, _LONGEST_SECONDS = 0.2, 5.0
# What nobody waits for is done when those who wait have their answer, and have asked what they ask next.
_AFTERWARDS = 0.005
# Most execs are over by then: their beginning and their end are on record at once.
BRIEF = 0.1
UNKNOWN_EXIT = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Where an attached client finds its streams, and which were asked for; no socket for a detached one."""

    socket: str
    spec: ExecSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Execs:
    """The use-cases on execs."""

    instance: Instance
    records: Records
    shims: Shims
    actors: Actors
    # Created by their shims.
    new: NewExecs
    # Whether another runtime than the engine's own launches what runs in the container.
    has_foreign_runtime: Callable[[Container], bool]
    _watched: set[str] = field(default_factory=set)
    # Created, says their record, by a manager that may have died before it could say more; until a shim has told.
    _doubtful: set[str] = field(default_factory=set)
    # Created, by an earlier manager: when they are forgotten unless they are started before. If their shim died with
    # him, they may have begun and nobody knows; with dockerd none outlasts its daemon.
    _inherited: dict[str, int] = field(default_factory=dict)
    # Created, and a shim knows them, or will in a moment: they may have begun. Who hears of it.
    _expected: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _plans: ProcessPlans = field(default_factory=ProcessPlans)

    async def create(self, ref: str, spec: ExecSpec) -> Exec:
        """Raises Conflict with Docker's texts unless the container runs, InvalidArgument without a command."""
        container = self.records.index.find(ref)
        _check_running(container)
        _check(spec)
        shim = await self._free_shim(container.id) if _has_streams(spec) else None
        # It may have ended while its shim was looked for.
        container = self.records.index.get(container.id)
        _check_running(container)
        exec_id = new_exec_id(container.id, self.records.exec_short_ids)
        record = Exec(id=exec_id, container_id=container.id, spec=spec, created_at=time.time_ns())
        expecting = self._expect(record, container, shim) if shim is not None else None
        if expecting is not None and expecting.kept and self.records.owed_execs < MOST_OWED:
            self.records.save_exec_later(record, _creation(container, record), seconds=BRIEF)
            failpoints.hit("manager.exec.expected")
        else:
            await self._save_new(record, container)
        if shim is not None:
            self.new.hear(container, shim, self)
        return record

    async def _free_shim(self, container_id: str) -> Shim | None:
        """The container's, if there is one that may be asked to expect one more."""
        if len(self._expected) >= MOST_EXPECTED:
            return None
        try:
            return await self.shims.live(container_id)
        except BulkheadError as error:
            log.debug("no shim to expect an exec", container=container_id, reason=str(error))
            return None

    def _expect(self, record: Exec, container: Container, shim: Shim) -> Expecting | None:
        """Its shim gets to know it; nobody can start it before he is told its id."""
        try:
            expecting = shim.expect_exec(self._asked(record, container, _size(record)))
        except BulkheadError as error:
            log.debug("exec not expected", exec=record.id, reason=str(error))
            return None
        hearing = self._hear(record, shim, expecting.told)
        self._expected[record.id] = self.actors.own(hearing, f"expect exec {record.id[:12]}")
        return expecting

    async def _save_new(self, record: Exec, container: Container) -> None:
        try:
            await self.records.save_exec(record, _creation(container, record))
        except BaseException:
            if (hearing := self._expected.pop(record.id, None)) is not None:
                hearing.cancel()
            raise
        failpoints.hit("manager.exec.created")

    async def start(self, exec_id: str, *, detach: bool, size: tuple[int, int]) -> Started:
        """Start it when `detach`, else register it for the client that dials the socket.

        Raises NotFound, Conflict (it has run already, or the container does not run), LaunchFailed.
        """
        record = await self._found(exec_id)
        container = self._container(record)

        self._inherited.pop(record.id, None)

        async def work() -> None:
            await self._start(self._find(exec_id), container, detach=detach, size=size)

        await self.actors.perform(container.id, "start exec in", work, seconds=_START_SECONDS)
        socket = "" if detach else str(self.instance.stdio_socket(container.id))
        return Started(socket=socket, spec=record.spec)

    async def inspect(self, exec_id: str, *, asked: bool = False) -> Exec:
        """Its record; the shim is asked when the end may not have been recorded yet.

        With `asked` its client has had the shim start it, and was not told how that went.
        """
        if not asked and (ended := self._ended(exec_id)) is not None:
            return ended
        record = await self._found(exec_id)
        if asked:
            self._take_up(record.id)
            record = self._find(exec_id)
        if record.phase is not ExecPhase.RUNNING and not self._may_have_begun(record):
            return record
        state = await self._state(record)
        # Its shim may have died having told us, and be heard only now.
        current = self.records.exec(record.id) or record
        if state is None or current.phase is ExecPhase.EXITED:
            return current
        if state.phase == "exited":
            return replace(current, phase=ExecPhase.EXITED, exit_code=state.exit_code, pid=0)
        if state.phase == "created":
            return replace(current, phase=ExecPhase.CREATED)
        return replace(current, phase=ExecPhase.RUNNING, pid=state.pid)

    def _ended(self, exec_id: str) -> Exec | None:
        """One whose end its shim has told, and nobody has asked about since."""
        told = self.new.ended(exec_id) if self.has_room else None
        if told is None or not self._knows(told.record):
            return None
        return replace(told.record, phase=ExecPhase.EXITED, exit_code=told.exit_code)

    async def _state(self, record: Exec) -> ExecState | None:
        """What its shim says; None without one, or when that does not know it. It ends the doubt, if it has begun."""
        try:
            shim = await self.shims.live(record.container_id)
            state = await shim.exec_state(record.id) if shim is not None else None
        except NotFound:
            self._doubtful.discard(record.id)
            return None
        except BulkheadError:
            return None
        if state is not None and state.phase != ExecPhase.CREATED.value and self._may_have_begun(record):
            self._take_up(record.id)
        return state

    def _may_have_begun(self, record: Exec) -> bool:
        """Though its record may not say so."""
        known = record.id in self._doubtful or record.id in self._expected
        return known or (record.phase is ExecPhase.CREATED and self.new.may_create(record.container_id))

    def _take_up(self, exec_id: str) -> None:
        """Watch what has begun, though its record does not say so."""
        if (record := self._note_begun(exec_id)) is not None:
            self._say_begun(record)
            self._watch(record)

    def _note_begun(self, exec_id: str) -> Exec | None:
        """Its record, which does not say so yet; None if it does, or is gone."""
        self._doubtful.discard(exec_id)
        self._expected.pop(exec_id, None)
        current = self.records.exec(exec_id)
        if current is None or current.phase is not ExecPhase.CREATED or not self._knows(current):
            return None
        failpoints.hit("manager.exec.begun")
        return current

    async def _hear(self, record: Exec, shim: Shim, telling: Coroutine[Any, Any, Lasting | None]) -> None:
        """Record what its shim tells of it."""
        try:
            told = await telling
        except (NotFound, Conflict, InvalidArgument) as error:
            log.debug("exec not expected any more", exec=record.id, reason=str(error))
        except BulkheadError as error:
            log.info("lost an exec that may begin", exec=record.id, reason=str(error))
            self._take_left(record)
            if record.id in self._expected:
                self._doubt(record)
        else:
            if told is None:
                self._doubt(record)
            else:
                self._hear_begun(record.id, shim, told)
        finally:
            self._expected.pop(record.id, None)

    def _hear_begun(self, exec_id: str, shim: Shim | None, told: Lasting) -> None:
        record = self._note_begun(exec_id)
        if record is None:
            self._hear_ended(exec_id, told)
        elif told.exit_code is None:
            self._say_begun(record, told.began_at)
            self._watch(record, shim)
        else:
            self._record_end(record, told.exit_code, self._begun(record, told.began_at))

    def _hear_ended(self, exec_id: str, told: Lasting) -> None:
        """Of one whose record says that it runs; its shim may be dead, and nobody else to ask."""
        record = self.records.exec(exec_id)
        if record is not None and record.phase is ExecPhase.RUNNING and told.exit_code is not None:
            self._record_end(record, told.exit_code)

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        """Waits a while for an exec that is about to run. Raises Conflict when it does not."""
        deadline = time.monotonic() + _RESIZE_SECONDS
        while (record := await self.inspect(exec_id)).phase is not ExecPhase.RUNNING:
            if record.phase is ExecPhase.EXITED or time.monotonic() > deadline:
                raise Conflict(f"exec process {exec_id} is not running")
            await asyncio.sleep(0.02)
        shim = await self.shims.ensure(record.container_id)
        await shim.resize(height, width, exec_id)

    def recover(self) -> None:
        """After a restart: wait again for those that run, whether or not their record says so already."""
        for record in self.records.execs():
            if record.phase is ExecPhase.RUNNING:
                self._watch(record)
            elif record.phase is ExecPhase.CREATED:
                self._inherit(record)

    def adopt(self, container: Container, told: Sequence[KnownExec]) -> None:
        """What a shim knows and no record does: an earlier manager had no time to write it down. If it died with him
        it may have left behind how some have ended."""
        self._adopt_ended(container)
        unknown = [each for each in told if self.records.exec(each.record.id) is None]
        forgotten = self._forgotten_before() if unknown else 0
        for each in unknown:
            if each.record.container_id == container.id and (not each.exited_at or each.exited_at > forgotten):
                self.records.save_exec_later(each.record, self._created(each.record), seconds=BRIEF)
                self._inherit(each.record)

    def _adopt_ended(self, container: Container) -> None:
        left = self.shims.left_execs(container.id)
        forgotten = self._forgotten_before() if left else 0
        for each in left:
            if each.record.container_id == container.id and each.exited_at > forgotten:
                self._take_in(None, each)

    def pattern(self, container: Container) -> bytes:
        """`new_execs.Register`. A link's variables change with whom it leads to."""
        if links.environment(container, self.records.index) or self.has_foreign_runtime(container):
            return b""
        process = exec_process(container, ExecSpec(command=(hostname(container),)))
        return self._plans.of(self.instance.container_data(container.id), process, (0, 0))

    async def make_room(self) -> None:
        """`new_execs.Register`. More than a few do not wait for the disk behind our back."""
        if not self.has_room:
            await self.records.written()

    @property
    def has_room(self) -> bool:
        """`new_execs.Register`"""
        return self.records.owed_execs < MOST_OWED

    def take_in(self, shim: Shim, told: Sequence[KnownExec]) -> None:
        """`new_execs.Register`"""
        for each in told:
            if self._knows(each.record):
                self._take_in(shim, each)

    def _take_in(self, shim: Shim | None, told: KnownExec) -> None:
        record = told.record
        unsaid = () if self.records.exec(record.id) is not None else (self._created(record),)
        if told.began_at and told.exited_at and unsaid:
            self._record_end(record, told.exit_code, *unsaid, self._begun(record, told.began_at))
            return
        if unsaid:
            self.records.save_exec_later(record, *unsaid, seconds=BRIEF)
        if told.began_at:
            code = told.exit_code if told.exited_at else None
            self._hear_begun(record.id, shim, Lasting(began_at=told.began_at, exit_code=code))

    def _created(self, record: Exec) -> Event:
        return _creation(self.records.index.get(record.container_id), record, record.created_at)

    def doubt_all(self, container_id: str) -> None:
        """`new_execs.Register`"""
        for record in self.records.unended_execs(container_id):
            if record.phase is ExecPhase.CREATED:
                self._doubt(record)

    def is_on_record(self, exec_id: str) -> bool:
        """`new_execs.Register`"""
        return self.records.exec(exec_id) is not None

    async def catch_up(self, container_id: str) -> None:
        """Put on record which execs its shim has created by itself, and have not ended."""
        await self.new.catch_up_unended(short(container_id))

    def _forgotten_before(self) -> int:
        """Who ended before that may have been on record, and swept since."""
        ended = sorted(each.exited_at for each in self.records.execs() if each.phase is ExecPhase.EXITED)
        limit = time.time_ns() - KEPT_NS
        return limit if len(ended) < MOST_ENDED else max(limit, ended[-MOST_ENDED])

    def _inherit(self, record: Exec) -> None:
        self._inherited[record.id] = time.time_ns() + KEPT_NS
        self._doubt(record)

    def _doubt(self, record: Exec) -> None:
        if record.id in self._doubtful:
            return
        self._doubtful.add(record.id)
        self.actors.own(self._ask(record), f"ask for exec {record.id[:12]}")

    async def _ask(self, record: Exec) -> None:
        """Until its shim tells that it has begun, or is gone: its client may dial at any time."""
        delay = _SUCCESSOR_SECONDS
        while await self._is_doubtful(record):
            if not self._is_alive(record):
                self._doubtful.discard(record.id)
                return
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_SECONDS)

    async def _is_doubtful(self, record: Exec) -> bool:
        """Ask its shim, and wait for what it says while it is there."""
        if await self._state(record) is not None and record.id in self._doubtful:
            await self._until_begun(record)
            await self._state(record)
        return record.id in self._doubtful

    async def _until_begun(self, record: Exec) -> None:
        try:
            shim = await self.shims.live(record.container_id)
            if shim is not None:
                await shim.begun(record.id)
        except (NotFound, Conflict):
            self._doubtful.discard(record.id)
        except BulkheadError as error:
            log.info("lost an exec that may begin", exec=record.id, reason=str(error))

    async def keep_swept(self) -> None:
        """Until cancelled: forget execs that ended a while ago, or before very many others."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            if old := [*self._old(), *self._unclaimed()]:
                with contextlib.suppress(BulkheadError):
                    await self.records.drop_execs(old)

    def _old(self) -> list[str]:
        limit = time.time_ns() - KEPT_NS
        ended = [each for each in self.records.execs() if each.phase is ExecPhase.EXITED]
        ended.sort(key=lambda each: each.exited_at, reverse=True)
        return [each.id for number, each in enumerate(ended) if number >= MOST_ENDED or each.exited_at < limit]

    def _unclaimed(self) -> list[str]:
        """Those of an earlier manager that no shim knows, and nobody has asked for in all this time."""
        now = time.time_ns()
        late = [exec_id for exec_id, until in self._inherited.items() if until < now and exec_id not in self._doubtful]
        found = [self.records.exec(exec_id) for exec_id in late]
        for exec_id in late:
            del self._inherited[exec_id]
        return [each.id for each in found if each is not None and each.phase is ExecPhase.CREATED]

    async def _start(self, record: Exec, container: Container, *, detach: bool, size: tuple[int, int]) -> None:
        _check_running(self.records.index.get(container.id))
        if record.phase is ExecPhase.RUNNING or self._may_have_begun(record):
            record = await self.inspect(record.id)
        if record.phase is ExecPhase.RUNNING:
            raise Conflict(f"exec command {record.id} is already running")
        if record.phase is ExecPhase.EXITED:
            raise Conflict(f"exec command {record.id} has already run")
        shim = await self.shims.ensure(container.id)
        await shim.create_exec(self._asked(record, container, size if any(size) else _size(record)))
        self._doubtful.discard(record.id)
        self._expected.pop(record.id, None)
        failpoints.hit("manager.exec.registered")
        if not detach:
            # Its shim knows that it begins: the client need not wait for the file to say so, too.
            # Who could not dial asks again.
            if (begun := self._note_begun(record.id)) is not None:
                self._say_begun(begun)
            self._watch(record, shim)
            return
        running = replace(record, phase=ExecPhase.RUNNING)
        await self.records.save_exec(running, self._begun(running))
        failpoints.hit("manager.exec.running")
        await self._run_detached(shim, running)
        self._watch(running, shim)

    def _asked(self, record: Exec, container: Container, size: tuple[int, int]) -> AskedExec:
        process = exec_process(container, record.spec, links.environment(container, self.records.index))
        planned = self._plans.of(self.instance.container_data(container.id), process, size)
        stdin = record.spec.attach_stdin
        return AskedExec(record=record, process=process, stdin=stdin, size=size, planned=planned)

    def _say_begun(self, record: Exec, at: int = 0) -> None:
        """It runs; soon its record says so. Of most the end is said by then, at once with it."""
        running = replace(record, phase=ExecPhase.RUNNING)
        self.records.save_exec_later(running, self._begun(record, at), seconds=BRIEF)

    def _begun(self, record: Exec, at: int = 0) -> Event:
        container = self.records.index.get(record.container_id)
        return of_container(container, f"exec_start: {_shown(record.spec)}", _of(record), moment=at)

    async def _run_detached(self, shim: Shim, record: Exec) -> None:
        try:
            pid = await shim.start_exec(record.id)
            failpoints.hit("manager.exec.started")
        except LaunchFailed as failure:
            if record.id not in self._watched:
                self._record_end(record, failure.exec_exit_code)
            raise
        except BaseException:
            # Nobody knows whether it runs: its record must not say so for ever.
            self._watch(record)
            raise
        # It runs whatever is on record: its shim is asked for the pid as well.
        with contextlib.suppress(BulkheadError):
            await self.records.save_exec(replace(record, pid=pid))

    def _watch(self, record: Exec, shim: Shim | None = None) -> None:
        """Once: a start that is made again is watched already."""
        if record.id not in self._watched:
            self._watched.add(record.id)
            self.actors.own(self._wait(record, shim), f"watch exec {record.id[:12]}")

    async def _wait(self, record: Exec, shim: Shim | None) -> None:
        try:
            code = await self._exit_code(record, shim)
            # Its shim may have told before it died, and be heard only now.
            await self.catch_up(record.container_id)
        finally:
            self._watched.discard(record.id)
        if code is None:
            self._take_left(record)
        current = self.records.exec(record.id)
        if current is not None and current.phase is not ExecPhase.EXITED:
            self._record_end(current, UNKNOWN_EXIT if code is None else code, known=code is not None)

    def _take_left(self, record: Exec) -> None:
        """How it ended, if its dead shim has left that behind."""
        for each in self.shims.left_execs(record.container_id):
            if each.record.id == record.id and self._knows(each.record):
                self._take_in(None, each)

    async def _exit_code(self, record: Exec, shim: Shim | None) -> int | None:
        """None when nobody can tell. A shim that dies has a successor, which was given the exec."""
        delay = _SUCCESSOR_SECONDS
        while True:
            try:
                if shim is None:
                    shim = await self.shims.live(record.container_id)
                if shim is not None:
                    return (await shim.wait(record.id)).code
            except NotFound:
                return None
            except BulkheadError as error:
                log.info("lost an exec", exec=record.id, reason=str(error))
                shim = None
            if not self._is_alive(record):
                return None
            # A shim that speaks otherwise may live as long as its container.
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_SECONDS)

    def _record_end(self, record: Exec, code: int, *unsaid: Event, known: bool = True) -> None:
        """Whoever has heard the end of its stream asks for its code now, and does not wait for the disk."""
        if not self._knows(record):
            return
        failpoints.hit("manager.exec.ended")
        told = {"exitCode": str(code)} if known else {"exitCode": str(code), "lost": Lost.EXIT_CODE.value}
        died = of_container(self.records.index.get(record.container_id), "exec_die", {**_of(record), **told})
        ended = replace(record, phase=ExecPhase.EXITED, exit_code=code, pid=0, exited_at=died.time)
        self.records.save_exec_later(ended, *unsaid, died, seconds=_AFTERWARDS)

    def _knows(self, record: Exec) -> bool:
        """Whether its container is there."""
        return self.records.index.knows(record.container_id)

    def _is_alive(self, record: Exec) -> bool:
        """Whether its container is."""
        return self._knows(record) and self.records.index.get(record.container_id).phase.alive

    async def _found(self, exec_id: str) -> Exec:
        """As its shim has told of it. Raises NotFound when nobody has."""
        await self.new.catch_up(container_of(exec_id))
        return self._find(exec_id)

    def _find(self, exec_id: str) -> Exec:
        found = self.records.exec(exec_id)
        if found is None:
            candidates = [each for each in self.records.execs() if exec_id and each.id.startswith(exec_id)]
            if len(candidates) != 1:
                raise NotFound(f"No such exec instance: {exec_id}")
            found = candidates[0]
        return found

    def _container(self, record: Exec) -> Container:
        if not self._knows(record):
            raise NotFound(f"No such exec instance: {record.id}")
        return self.records.index.get(record.container_id)


def exec_process(container: Container, spec: ExecSpec, linked: Sequence[str] = ()) -> dict[str, Any]:
    """The OCI process object of an exec: the container's own environment and confinement, then what was asked."""
    own = container.spec
    environment = oci.environment(own, hostname(container), linked)
    if spec.tty:
        environment = oci.override(["TERM=xterm"], environment)
    return {
        "terminal": spec.tty,
        "user": _user(spec.user or own.user),
        "args": list(spec.command),
        "env": oci.override(environment, spec.env),
        "cwd": spec.working_dir or own.working_dir or "/",
        "capabilities": oci.capability_sets(own, privileged=own.privileged or spec.privileged),
        "rlimits": rlimits(own.ulimits),
        "noNewPrivileges": own.no_new_privileges,
        "oomScoreAdj": own.oom_score_adj,
    }


def _user(name: str) -> dict[str, Any]:
    """A name is looked up inside the container."""
    return {"uid": 0, "gid": 0, "username": name or oci.ROOT}


def _check(spec: ExecSpec) -> None:
    if not spec.command:
        raise InvalidArgument("No exec command specified")
    for entry in spec.env:
        if not entry or entry.startswith("="):
            raise InvalidArgument(f"invalid environment variable: {entry}")


def _check_running(container: Container) -> None:
    match container.phase:
        case Phase.RUNNING:
            return
        case Phase.PAUSED:
            raise Conflict(f"Container {container.name} is paused, unpause the container before exec")
        case Phase.RESTARTING:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        case _:
            raise Conflict(f"Container {container.id} is not running")


def _has_streams(spec: ExecSpec) -> bool:
    return spec.attach_stdin or spec.attach_stdout or spec.attach_stderr


def _size(record: Exec) -> tuple[int, int]:
    return record.spec.height, record.spec.width


def _shown(spec: ExecSpec) -> str:
    return " ".join(spec.command)


def _creation(container: Container, record: Exec, at: int = 0) -> Event:
    return of_container(container, f"exec_create: {_shown(record.spec)}", _of(record), moment=at)


def _of(record: Exec) -> dict[str, str]:
    return {"execID": record.id}
