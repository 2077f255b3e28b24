"""Execs that are created at the shim's door, without the manager, who is told of them a moment later.

He allows it by a pattern: what a process like the container's own comes to, but for its command. Who asks for more than
a command, or asks while he is away, is refused, and goes to him.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from bulkhead.errors import Conflict, InvalidArgument, ResourceExhausted
from bulkhead.runtime import planned
from bulkhead.shim.container import Container
from bulkhead.shim.execs import Exec, ExecPhase, Execs
from bulkhead.shim.loop import Loop, Timer
from bulkhead.shim.messages import KnownExec, NewExecsResponse
from bulkhead.wire.ttrpc_server import Call

# Most have ended by then, and are told of once.
SOON = 0.05
# A manager who is busy with his disk hears of no more; fewer than the shim remembers when they have ended.
_MOST_UNTOLD = 48
_LARGEST_RECORD = 16 << 10
_SHORT = 12
_RANDOM_BYTES = (64 - _SHORT) // 2
# What the pattern is without.
_SPECIAL = ("env", "user", "working_dir", "privileged", "tty")


class NewExecs:
    """Creates them, and tells whoever asks."""

    def __init__(self, loop: Loop, container: Container, execs: Execs) -> None:
        self._loop = loop
        self._container = container
        self._execs = execs
        self._pattern = b""
        # The manager's, answered or not: it tells whether he is there.
        self._call: Call | None = None
        self._untold: list[Exec] = []
        self._timer: Timer | None = None

    def allow(self, pattern: bytes, call: Call) -> None:
        """Answer when there is somebody to tell of; another one who waits for that waits no longer."""
        before, self._call = self._call, call
        if before is not None and before.open:
            before.fail(Conflict("cannot tell of execs: somebody else asks"))
        if pattern:
            # Another version's, and this shim makes none without the manager.
            self._pattern = pattern if planned.unpack(pattern) is not None else b""
        if self._untold and self._timer is None:
            self.tell()

    def tell_now(self, call: Call) -> None:
        """Answer with whoever was not told of."""
        call.reply(NewExecsResponse(execs=self._take_untold()))

    def create(self, container_id: str, spec: Mapping[str, Any]) -> Exec:
        """A new one. Raises Conflict and the like when the manager is to be asked for it."""
        command = self._command(container_id, spec)
        exec_id = os.urandom(_RANDOM_BYTES).hex() + container_id[:_SHORT]
        record = {"id": exec_id, "container_id": container_id, "spec": spec, "created_at": time.time_ns()}
        text = json.dumps(record).encode()
        if len(text) > _LARGEST_RECORD:
            raise InvalidArgument("cannot create exec: it is too long for a shim")
        plan = planned.with_arguments(self._pattern, command)
        one = self._execs.add(exec_id, open_stdin=spec.get("attach_stdin") is True, planned=plan, record=text)
        self._untold.append(one)
        one.lasting.append(self._lasts)
        self._timer = self._timer or self._loop.later(SOON, self.tell)
        return one

    def _command(self, container_id: str, spec: Mapping[str, Any]) -> list[str]:
        if container_id != self._container.identity.container_id or not self._pattern:
            raise Conflict("cannot create exec: the manager is to be asked")
        if self._call is None or not self._call.caller_is_there:
            raise Conflict("cannot create exec: the manager is not there")
        if len(self._untold) >= _MOST_UNTOLD:
            raise ResourceExhausted("cannot create exec: the manager was not told of too many")
        command = spec.get("command")
        if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
            raise InvalidArgument("No exec command specified")
        if any(spec.get(name) for name in _SPECIAL):
            raise InvalidArgument("cannot create exec: it asks for more than a command")
        return command

    @property
    def owes(self) -> bool:
        """Whether the manager was not told of somebody."""
        return bool(self._untold)

    def _lasts(self, one: Exec) -> None:
        """Or has ended. While it runs on, whoever heard of it asks for its end."""
        if one not in self._untold and one.phase is not ExecPhase.CREATED:
            self._untold.append(one)
        self.tell()

    def tell(self) -> None:
        """The manager of whoever he was not told of, or when he asks next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._untold and self._call is not None and self._call.open:
            self._call.reply(NewExecsResponse(execs=self._take_untold()))

    def _take_untold(self) -> list[KnownExec]:
        told, self._untold = self._untold, []
        return [known(one) for one in told]


def known(one: Exec) -> KnownExec:
    """What there is to tell of it."""
    return KnownExec(record=one.record, exited_at=one.exited_at, began_at=one.started_at, exit_code=one.exit_code or 0)
