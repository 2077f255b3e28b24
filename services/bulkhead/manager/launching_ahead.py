"""Shims launched ahead of their containers' starts: most containers are started as soon as they are made.

A new container's record waits for the disk, and its shim is launched meanwhile. Whoever wants it first, for a start or
for streams, finds it there; one that nobody wants for a while is given back. Nothing depends on any of them: what
fails here is told by whoever wants the shim, and what a death of this process leaves is ended by recovery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from bulkhead import failpoints
from bulkhead.errors import BulkheadError
from bulkhead.manager.actors import Actors
from bulkhead.manager.ports import KnownExec, Shim, Shims, SupervisorAway

log = structlog.get_logger()
# So many containers at a time: who makes more of them at once does not start each the next moment.
_MOST = 4
# Longer than from `docker create` to `docker start` in a script, or from the creates of a small stack to its starts.
_SECONDS = 3.0
# Who ends a container waits so long for a launch: the supervisor may stand still.
_PATIENCE_SECONDS = 1.0


@dataclass(slots=True)
class _Ahead:
    """A shim that nobody has wanted: `work` launches it or gives it back, in between the `timer` runs."""

    work: asyncio.Task[None]
    timer: asyncio.TimerHandle | None = None
    wanted: bool = False
    leaves: bool = False
    # Why it could not be launched, if the supervisor was why.
    away: SupervisorAway | None = None


class LaunchingAhead:
    """`bulkhead.manager.ports.Shims`, with `expect` beside it. Who asks for a shim waits until what is under way for
    it has ended, so that there are never two, nor one that is about to leave."""

    def __init__(self, shims: Shims, actors: Actors, *, seconds: float = _SECONDS) -> None:
        self._shims = shims
        self._actors = actors
        self._seconds = seconds
        self._ahead: dict[str, _Ahead] = {}

    def expect(self, container_id: str, *, network_given: bool, cgroup: str = "") -> None:
        """A start is likely: launch the container's shim, whose directory is there. Never waits, never fails."""
        if len(self._ahead) >= _MOST or container_id in self._ahead:
            return
        launch = self._launch(container_id, network_given=network_given, cgroup=cgroup)
        ahead = _Ahead(self._actors.own(launch, f"launch ahead {container_id[:12]}"))
        self._ahead[container_id] = ahead
        ahead.work.add_done_callback(lambda _: self._worked(container_id, ahead))

    async def ensure(self, container_id: str, *, network_given: bool = False, cgroup: str = "") -> Shim:
        ahead = self._claim(container_id)
        if ahead is not None:
            await asyncio.wait([ahead.work])
            if ahead.away is not None:
                # Nobody waits for the supervisor twice.
                raise ahead.away
        return await self._shims.ensure(container_id, network_given=network_given, cgroup=cgroup)

    async def live(self, container_id: str) -> Shim | None:
        return await self._shims.live(container_id)

    async def discard(self, container_id: str) -> None:
        await self._broken_off(container_id)
        await self._shims.discard(container_id)

    def left_execs(self, container_id: str) -> Sequence[KnownExec]:
        return self._shims.left_execs(container_id)

    def began_at(self, container_id: str) -> int:
        return self._shims.began_at(container_id)

    async def break_off(self, container_id: str) -> None:
        await self._broken_off(container_id)
        await self._shims.break_off(container_id)

    async def forget(self, container_id: str) -> None:
        await self._shims.forget(container_id)

    async def _broken_off(self, container_id: str) -> None:
        """The shim is not to be: who cannot launch it now is told that nobody wants it any more."""
        ahead = self._claim(container_id)
        if ahead is not None and not ahead.leaves:
            await asyncio.wait([ahead.work], timeout=_PATIENCE_SECONDS)
            ahead.work.cancel()
        if ahead is not None:
            await asyncio.wait([ahead.work])

    def _claim(self, container_id: str) -> _Ahead | None:
        """The shim, if there is one, is the caller's from here on. What is to be waited for, if anything is."""
        ahead = self._ahead.get(container_id)
        if ahead is None:
            return None
        ahead.wanted = True
        if ahead.timer is not None:
            ahead.timer.cancel()
        if not ahead.work.done():
            return ahead
        self._ahead.pop(container_id)
        return None

    async def _launch(self, container_id: str, *, network_given: bool, cgroup: str) -> None:
        failpoints.hit("manager.ahead.begun")
        # Whoever wants it is told what is wrong. It may have been launched, and is looked for when its time is over.
        try:
            await self._shims.ensure(container_id, network_given=network_given, cgroup=cgroup)
        except SupervisorAway as error:
            self._ahead[container_id].away = error
        except BulkheadError:
            pass
        failpoints.hit("manager.ahead.launched")

    def _worked(self, container_id: str, ahead: _Ahead) -> None:
        if ahead.wanted or ahead.leaves:
            self._ahead.pop(container_id, None)
        else:
            ahead.timer = asyncio.get_running_loop().call_later(self._seconds, self._expire, container_id, ahead)

    def _expire(self, container_id: str, ahead: _Ahead) -> None:
        """Nobody has wanted it. Who does so from here on waits until it has left."""
        ahead.leaves = True
        ahead.work = self._actors.own(self._give_back(container_id), f"give back the shim of {container_id[:12]}")
        ahead.work.add_done_callback(lambda _: self._worked(container_id, ahead))

    async def _give_back(self, container_id: str) -> None:
        try:
            await self._shims.discard(container_id)
        except BulkheadError as error:
            log.warning("cannot give back a shim", container=container_id, reason=str(error))
