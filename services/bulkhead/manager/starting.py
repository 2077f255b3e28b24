"""Starting a container: intent, bundle, shim, network, exec, record. Runs inside the container's actor.

Whatever fails on the way undoes all of it: the container stays in the phase it was in and says why.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from bulkhead import failpoints
from bulkhead.content.aside import aside
from bulkhead.errors import (
    BulkheadError,
    Conflict,
    Internal,
    LaunchFailed,
    NotFound,
    NotModified,
    Unavailable,
    may_pass,
)
from bulkhead.linux import process
from bulkhead.manager import health
from bulkhead.manager.announcements import of_container, of_mounts, of_network
from bulkhead.manager.bundles import Bundles, hostname
from bulkhead.manager.index import Index
from bulkhead.manager.networking import Networking, Plugged
from bulkhead.manager.networks.settings import of_no_interface
from bulkhead.manager.ports import Bundle, Change, Created, Dirs, Records, Shim, Shims, Snapshots
from bulkhead.manager.relaying import Relaying
from bulkhead.manager.resolving import Resolving
from bulkhead.manager.sharing import Attachment, Namespaces, attachment, may_have_links, namespaces, network_owner
from bulkhead.manager.volumes.catalogue import Volumes
from bulkhead.model.container import Container
from bulkhead.model.lifecycle import Event, Phase, apply
from bulkhead.model.network import ProcessNetns
from bulkhead.model.replacing import replace

log = structlog.get_logger()
INTENT = "start"
OTHER_FAILURE = 128
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """Starts containers."""

    records: Records
    shims: Shims
    snapshots: Snapshots
    bundles: Bundles
    networking: Networking
    volumes: Volumes
    resolving: Resolving
    relaying: Relaying

    async def start(self, container_id: str, *, by_user: bool) -> tuple[Container, Shim]:
        """Bring the container to RUNNING; its record, and the shim to watch.

        Raises NotModified when it runs already, Conflict when its phase forbids a start, LaunchFailed when its
        process cannot be executed, else what the part that failed raises. After a failure nothing is left but the
        reason in the record.
        """
        container = self.records.index.get(container_id)
        _check_phase(container, by_user=by_user)
        container = _named_as_owner(container, self.records.index)
        try:
            async with self.volumes.used_by(container):
                return await self._launch(container, by_user=by_user)
        except BulkheadError as error:
            await self.note(container, error)
            raise

    async def _launch(self, container: Container, *, by_user: bool) -> tuple[Container, Shim]:
        try:
            return await self._attempt(container, by_user=by_user)
        except _DiedParked:
            # Nothing is left of it.
            return await self._attempt(container, by_user=by_user)

    async def _attempt(self, container: Container, *, by_user: bool) -> tuple[Container, Shim]:
        async with AsyncExitStack() as undo:
            undo.push_async_callback(_quietly, self.shims.discard, container.id)
            undo.push_async_callback(self.bundles.release, container)
            shim, created, plugged = await self._create(container, undo)
            failpoints.hit("manager.start.created")
            with self._replaceable(container, shim, created), _parked(created):
                if plugged is None:
                    plugged = await self._plug(container, created, shim, undo)
                started_at = created.started_at or await shim.start()
            failpoints.hit("manager.start.started")
            running = replace(
                container,
                phase=apply(container.phase, Event.STARTED),
                pid=created.pid,
                pid_start_time=created.start_time,
                started_at=started_at,
                exit_code=0,
                error="",
                oom_killed=False,
                oom_kills=0,
                losses=(),
                stopped_by_user=False,
                restart_count=0 if by_user else container.restart_count,
                restart_delay_ms=0 if by_user else container.restart_delay_ms,
                endpoints=plugged.endpoints,
                attachments=plugged.attachments,
                health=health.initial(container, started_at),
            )
            await self._commit(running)
            failpoints.hit("manager.start.recorded")
            undo.pop_all()
        for warning in created.warnings:
            log.warning("container started with a warning", container=container.id, warning=warning)
        return running, shim

    async def _plug(self, container: Container, created: Created, shim: Shim, undo: AsyncExitStack) -> Plugged:
        """Into the process's namespace, while it is parked."""
        netns = ProcessNetns(pid=created.pid, start_time=created.start_time)
        plugged = await self.networking.plug(container, netns)
        undo.push_async_callback(self.networking.unplug, plugged.attachments)
        failpoints.hit("manager.start.plugged")
        if plugged.attachments:
            await self._introduce(container, plugged, shim)
        failpoints.hit("manager.start.named")
        return plugged

    async def _introduce(self, container: Container, plugged: Plugged, shim: Shim) -> None:
        """Let the container find others by their names, and be found."""
        await aside(self.bundles.name_addresses, container, plugged.endpoints)
        connected = replace(container, endpoints=plugged.endpoints, attachments=plugged.attachments)
        await self.resolving.begin(connected, shim)
        await self.relaying.begin(plugged.attachments, shim)

    async def _create(self, container: Container, undo: AsyncExitStack) -> tuple[Shim, Created, Plugged | None]:
        """The process: parked before its exec if it is to be plugged in there, else it has begun.

        The shim is launched while the bundle is written, and the network namespace made and plugged in if that can be
        done without the process.
        """
        at_once, ahead = not may_have_links(container), self._plugs_ahead(container)
        await self.bundles.find_directory(container.id)
        failpoints.hit("manager.start.begun")
        with ExitStack() as pinned:
            shim, outfit = await _both(
                self.shims.ensure(container.id, network_given=ahead),
                self._outfit(container, pinned, undo, ahead=ahead),
            )
            try:
                created = await self._created(shim, outfit, start=at_once)
            except (Conflict, Unavailable) as error:
                # A shim of the last run that was not told to leave, and serves one run only; or one that has died, just
                # now or since it was launched ahead.
                if isinstance(error, Unavailable) and not self._died_before_run(container, shim):
                    raise
                await self.shims.discard(container.id)
                shim = await self.shims.ensure(container.id, network_given=ahead)
                created = await self._created(shim, outfit, start=at_once)
        reserved = outfit.reserved
        if reserved is not None and not created.started_at:
            # A shim of an earlier release has parked it in a namespace of its own.
            await self.networking.unplug(reserved.attachments)
            reserved = None
        return shim, created, reserved

    async def _created(self, shim: Shim, outfit: _Outfit, *, start: bool) -> Created:
        """What was reserved is listened for before anybody runs who could answer."""
        if outfit.reserved is not None:
            await self.relaying.begin(outfit.reserved.attachments, shim)
        return await shim.create(outfit.bundle, start=start, network=outfit.netns)

    @contextmanager
    def _replaceable(self, container: Container, shim: Shim, created: Created) -> Iterator[None]:
        """Raises _DiedParked for what fails because the shim has died with a program that has not begun."""
        try:
            yield
        except Unavailable as error:
            if created.started_at or not self._died_before_run(container, shim):
                raise
            raise _DiedParked(str(error)) from error

    def _died_before_run(self, container: Container, shim: Shim) -> bool:
        """A program that may have begun is not begun again."""
        return shim.gone and self.shims.began_at(container.id) in (0, container.started_at)

    def _plugs_ahead(self, container: Container) -> bool:
        """The engine's own core alone takes a namespace that was made for it."""
        return self.networking.plugs_ahead(container) and not self.bundles.has_foreign_runtime(container)

    async def _outfit(self, container: Container, pinned: ExitStack, undo: AsyncExitStack, *, ahead: bool) -> _Outfit:
        """All that the shim is given; with `ahead` the network too, in a namespace that is kept until `pinned` ends."""
        if not ahead:
            return _Outfit(bundle=await self._prepare(container, None, pinned))
        reserved = await self.networking.reserve(container)
        undo.push_async_callback(self.networking.unplug, reserved.attachments)
        netns, bundle = await _both(
            self._plug_ahead(container, reserved, pinned), self._prepare(container, reserved, pinned)
        )
        return _Outfit(bundle=bundle, reserved=reserved, netns=netns)

    async def _plug_ahead(self, container: Container, reserved: Plugged, pinned: ExitStack) -> int:
        netns = await self.networking.plug_reserved(container, reserved)
        pinned.callback(os.close, netns)
        failpoints.hit("manager.start.wired")
        return netns

    async def _prepare(self, container: Container, reserved: Plugged | None, pinned: ExitStack) -> Bundle:
        """The bundle and the intent, by one thread: each way to another and back takes longer than to write either."""
        await self.bundles.find_sources(container)
        dirs = self.snapshots.dirs(container.id, container.image_id)
        chosen = pinned.enter_context(namespaces(container, self.records.index))
        written: list[Bundle] = []

        def write() -> None:
            written.append(self._write_bundle(container, chosen, dirs, reserved))

        await self.records.commit(Change(intent=INTENT, about=container.id), first=write)
        return written[0]

    def _write_bundle(self, container: Container, chosen: Namespaces, dirs: Dirs, reserved: Plugged | None) -> Bundle:
        """Blocking: on a busy disk this takes a while."""
        self.snapshots.make(container.id, dirs)
        sources = self.volumes.sources(container.spec.mounts)
        mounts = self.volumes.writable(container.spec.mounts)
        told = replace(container, spec=replace(container.spec, mounts=mounts)) if mounts else container
        if reserved is None:
            told = _without_interfaces(told)
        endpoints = reserved.endpoints if reserved is not None else ()
        bundle = self.bundles.write(told, chosen, dirs, sources, self.volumes.own(mounts), endpoints)
        health.write_check(bundle.directory, container)
        return bundle

    async def _commit(self, running: Container) -> None:
        connected = [of_network(running, endpoint, "connect") for endpoint in running.endpoints]
        events = [*connected, *of_mounts(running, "mount"), of_container(running, "start")]
        await self.records.commit(Change(update=running, done=True, events=tuple(events)))

    async def note(self, container: Container, error: BulkheadError) -> None:
        """Why it does not run, on record."""
        code = error.exit_code if isinstance(error, LaunchFailed) else OTHER_FAILURE
        if code == OTHER_FAILURE:
            code = container.exit_code or code  # as Docker has it: how its last run ended, if that was not well
        phase = apply(container.phase, Event.START_FAILED)
        if container.phase is Phase.RESTARTING and may_pass(error):
            phase = Phase.RESTARTING  # the policy tries again: a full disk must not end it for good
        failed = replace(container, phase=phase, error=str(error), exit_code=code)
        try:
            await self.records.commit(Change(update=failed, done=True))
        except BulkheadError as second:
            error.add_note(f"the failure could not be recorded: {second}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outfit:
    """What a container starts with: `netns` is where it is plugged in already, if that was `reserved`."""

    bundle: Bundle
    reserved: Plugged | None = None
    netns: int = -1


class _DiedParked(Unavailable):
    """A shim died between the create of its process and the start."""


@contextmanager
def _parked(created: Created) -> Iterator[None]:
    """What is not found, or not possible, because somebody has ended the process says nothing about the request."""
    try:
        yield
    except (NotFound, Conflict) as error:
        if _is_there(created):
            raise
        raise Internal(f"cannot start the container: its process was ended before its program ran: {error}") from error


def _is_there(created: Created) -> bool:
    """As far as is known."""
    try:
        started = process.start_time(created.pid)
    except OSError:
        return True
    return started == created.start_time and process.zombie_exit_code(created.pid) is None


def _named_as_owner(container: Container, index: Index) -> Container:
    """Who shares another's network has its names too, which is whom its /etc/hosts tells of."""
    spec = container.spec
    if attachment(spec) is not Attachment.SHARED or spec.uts_mode:
        return container
    try:
        owner = network_owner(spec, index)
    except NotFound:
        return container  # told where its namespace is looked for
    names = replace(spec, hostname=hostname(owner), domainname=owner.spec.domainname)
    return replace(container, spec=names)


def _check_phase(container: Container, *, by_user: bool) -> None:
    match container.phase:
        case Phase.RUNNING:
            raise NotModified(f"container {container.id} is already running")
        case Phase.RESTARTING if by_user:
            raise NotModified(f"container {container.id} is restarting")
        case Phase.PAUSED:
            raise Conflict("cannot start a paused container, try unpause instead")
        case Phase.REMOVING | Phase.DEAD:
            raise Conflict("container is marked for removal and cannot be started")


def _without_interfaces(container: Container) -> Container:
    """What is told of one that is plugged in when its process is there and parked: whoever plugs it in sets them up."""
    if not container.spec.sysctls or not may_have_links(container):
        return container
    return replace(container, spec=replace(container.spec, sysctls=of_no_interface(container.spec.sysctls)))


async def _both(first: Awaitable[S], second: Coroutine[Any, Any, T]) -> tuple[S, T]:
    """At the same time, though the first is begun first. Neither is abandoned half-way when the other one fails."""
    other = asyncio.get_running_loop().create_task(second)
    found: S | Exception
    try:
        found = await first
    except asyncio.CancelledError:
        other.cancel()
        await asyncio.wait([other])
        raise
    except Exception as error:  # the second's reason first: of bundle and shim the bundle's is what the user can mend
        found = error
    made = await other
    if isinstance(found, Exception):
        raise found
    return found, made


async def _quietly(work: Callable[[str], Awaitable[None]], container_id: str) -> None:
    try:
        await work(container_id)
    except BulkheadError as error:
        log.warning("cannot undo a start", container=container_id, reason=str(error))
