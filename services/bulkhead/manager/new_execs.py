"""Execs that a container's shim creates for who dials it, without us: it may once it has a pattern, and tells of them.

The pattern is what an exec comes to that asks for nothing but a command. It is given after the first exec that is made
here: most containers never have one.

What a shim tells lies with the kernel before a client hears of it, and we read it there when we are asked about execs,
or when the shim rings because nobody has (`shim.new_execs`). So whoever has an exec's id, or has seen its end, finds
both on record here, and what a shim has told is known when it is dead. What lay there unread when we died the next
manager is told by the shim, which remembers more than it tells without being read. While we do not read, or have too
much that the disk has not taken yet, a shim refuses to make more, and who asks comes to us.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from bulkhead.errors import BulkheadError
from bulkhead.manager.actors import Actors
from bulkhead.manager.ports import KnownExec, Shim
from bulkhead.model.container import Container
from bulkhead.model.ids import container_of, short

log = structlog.get_logger()
# Whoever has created the first exec starts it first.
_AFTERWARDS = 0.02
# For the answer to be out (seconds): to put an exec on record takes longer than to tell how it went.
_MOMENT = 0.002
# A disk that takes nothing is asked again then.
_AGAIN_SECONDS = 1.0


class Register(Protocol):
    """Where what a shim tells is written down."""

    def pattern(self, container: Container) -> bytes:
        """What an exec in it comes to that asks for nothing but a command; empty where each has to be worked out."""

    async def make_room(self) -> None:
        """Wait for the disk if it owes us much. Raises BulkheadError when it takes nothing."""

    def take_in(self, shim: Shim, told: Sequence[KnownExec]) -> None:
        """Put what a shim has told on record."""

    @property
    def has_room(self) -> bool:
        """Whether `make_room` would return at once."""

    def is_on_record(self, exec_id: str) -> bool:
        """Whether it is."""

    def doubt_all(self, container_id: str) -> None:
        """Its shim tells of no more execs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    shim: Shim
    register: Register

    # Told, and not on record yet; of each what was told last, in the order in which they were created.
    told: dict[str, KnownExec] = field(default_factory=dict)

    def read(self) -> None:
        for each in self.shim.told_execs():
            self.told[each.record.id] = each

    def can_wait(self) -> bool:
        """Whether all that was told is of execs that are over, and of which nobody has known."""
        return self.register.has_room and all(map(self._is_over, self.told.values()))

    def _is_over(self, told: KnownExec) -> bool:
        return bool(told.began_at and told.exited_at) and not self.register.is_on_record(told.record.id)

    def take_in(self) -> None:
        """Put on record what it has told."""
        self.read()
        if self.told:
            told = tuple(self.told.values())
            self.told.clear()
            self.register.take_in(self.shim, told)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExecs:
    """The shims that are heard, by the short ids of their containers."""

    actors: Actors
    _heard: dict[str, _Heard] = field(default_factory=dict)

    def hear(self, container: Container, shim: Shim, register: Register) -> None:
        """From now on, as long as it lives."""
        name = short(container.id)
        if self._hears(name, shim):
            # Whoever comes here may have been refused by a shim that can tell nobody.
            with contextlib.suppress(BulkheadError):
                shim.renew_news()
        elif shim.tells_new_execs:
            heard = self._heard[name] = _Heard(shim=shim, register=register)
            self.actors.own(self._hear(container, heard), f"hear of execs in {name}")

    def may_create(self, container_id: str) -> bool:
        """Whether the shim may know of execs that are not on record yet, or have begun."""
        return short(container_id) in self._heard

    async def catch_up(self, name: str) -> None:
        """Whoever was created before this call, in the container of this short id, is on record after it, and so is
        whoever ended."""
        if (heard := self._heard.get(name)) is not None:
            with contextlib.suppress(BulkheadError):
                await heard.register.make_room()
            heard.take_in()

    async def catch_up_unended(self, name: str) -> None:
        """Whoever has not ended is on record after it as after `catch_up`; whoever has begun and ended since somebody
        asked last is so in a moment, not before who asks now has his answer."""
        if (heard := self._heard.get(name)) is None:
            return
        heard.read()
        if heard.told and not heard.can_wait():
            await self.catch_up(name)
        elif heard.told:
            asyncio.get_running_loop().call_later(_MOMENT, heard.take_in)

    def ended(self, exec_id: str) -> KnownExec | None:
        """How it went, of one that is over and was not told of before: it is on record in a moment, not before who has
        waited for its end and asks for its code now has that."""
        if (heard := self._heard.get(container_of(exec_id))) is None:
            return None
        heard.read()
        told = heard.told.get(exec_id)
        if told is None or not told.began_at or not told.exited_at:
            return None
        asyncio.get_running_loop().call_later(_MOMENT, heard.take_in)
        return told

    def _hears(self, name: str, shim: Shim) -> bool:
        return (heard := self._heard.get(name)) is not None and heard.shim is shim

    async def _hear(self, container: Container, heard: _Heard) -> None:
        pattern = b""
        try:
            await asyncio.sleep(_AFTERWARDS)
            pattern = heard.register.pattern(container)
            if not pattern:
                return
            await heard.shim.new_execs(pattern)
            while True:
                await self._make_room(heard)
                heard.take_in()
                await heard.shim.new_execs()
        except BulkheadError as error:
            log.debug("a shim tells of no more execs", container=container.id, reason=str(error))
            heard.take_in()
        finally:
            heard.shim.end_news()
            if self._hears(short(container.id), heard.shim):
                del self._heard[short(container.id)]
                if pattern:
                    heard.register.doubt_all(container.id)

    async def _make_room(self, heard: _Heard) -> None:
        """A disk that takes nothing is no reason to hear of no more: the shim goes on, as far as it may."""
        while True:
            try:
                await heard.register.make_room()
            except BulkheadError as error:
                log.warning("execs cannot be put on record yet", reason=str(error))
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return
