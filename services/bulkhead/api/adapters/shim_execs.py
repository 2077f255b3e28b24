"""Execs that are created and started at their container's shim: who needs the manager for one more process?

A container's whole id says where its shim listens, and so do the last digits of an exec's. Whatever the shim does not
know, or will not do, is the manager's to say.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from bulkhead.api.adapters.stdio import ShimEnd, ask, dial
from bulkhead.api.ports.execs import InspectedExec
from bulkhead.api.ports.stdio import ProcessEnd
from bulkhead.errors import BulkheadError, Conflict, InvalidArgument, NotFound, Unavailable
from bulkhead.model import ids
from bulkhead.model.execs import Exec, ExecSpec
from bulkhead.model.instance import Instance
from bulkhead.wire import ended_execs

# A shim that needs longer to register an exec is stuck: the manager knows what to do with it.
_PATIENCE = 1.0
# Who creates an exec starts it next, on the connection over which it was created. A shim hangs up later than this.
_HELD_SECONDS, _MOST_HELD = 5.0, 32


# Who waits for an exec's end asks for its code at once.
_YOUNG_NS = 5_000_000_000


class _Ended(msgspec.Struct):
    record: Exec
    exited_at: int
    exit_code: int


_decode = msgspec.json.Decoder(_Ended).decode


@dataclass(frozen=True, slots=True)
class _Held:
    end: ShimEnd
    timer: asyncio.TimerHandle


class ShimExecs:
    """`ports.ShimExecs`."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._held: dict[str, _Held] = {}

    async def create(self, ref: str, spec: ExecSpec) -> str | None:
        if not ids.is_full(ref) or len(self._held) >= _MOST_HELD or _asks_for_more(spec):
            return None
        try:
            end = await dial(self._socket(ref), {"op": "new", "container": ref, "spec": spec})
            exec_id = (await ask(end, _PATIENCE)).exec_id
        except BulkheadError:
            return None
        timer = asyncio.get_running_loop().call_later(_HELD_SECONDS, self._let_go, exec_id)
        self._held[exec_id] = _Held(end, timer)
        return exec_id

    async def start(self, exec_id: str, height: int, width: int) -> tuple[ProcessEnd, bool] | None:
        if not ids.is_full(exec_id):
            return None
        request = {"op": "start", "exec_id": exec_id, "height": height, "width": width}
        place = self._socket(ids.container_of(exec_id))
        try:
            held = self._take(exec_id, request)
            end = held or await dial(place, request)
        except Unavailable:
            return None
        try:
            return end, (await ask(end)).tty
        except (NotFound, Conflict, InvalidArgument):
            # InvalidArgument: a shim of an earlier release.
            return None
        except Unavailable as error:
            if held is None or not held.has_ended:
                raise
            return await _asked_anew(place, request, error)

    def ended(self, exec_id: str) -> InspectedExec | None:
        """The file goes with its shim, and that before its container is not there any more. After some time the manager
        may have forgotten it."""
        if not ids.is_full(exec_id):
            return None
        line = ended_execs.read(f"{self._instance.container_run(ids.container_of(exec_id))}", exec_id)
        try:
            told = _decode(line) if line else None
        except msgspec.MsgspecError:
            return None
        if told is None or told.record.id != exec_id or not 0 <= time.time_ns() - told.exited_at <= _YOUNG_NS:
            return None
        return InspectedExec(
            id=exec_id,
            container_id=told.record.container_id,
            spec=told.record.spec,
            started=True,
            exit_code=told.exit_code,
        )

    def _take(self, exec_id: str, request: dict[str, Any]) -> ShimEnd | None:
        held = self._held.pop(exec_id, None)
        if held is None:
            return None
        held.timer.cancel()
        if held.end.has_ended:
            held.end.close()
            return None
        held.end.ask_again(msgspec.json.encode(request) + b"\n")
        return held.end

    def _let_go(self, exec_id: str) -> None:
        self._held.pop(exec_id).end.close()

    def _socket(self, container_id: str) -> str:
        return str(self._instance.stdio_socket(container_id))


async def _asked_anew(place: str, request: dict[str, Any], before: Unavailable) -> tuple[ProcessEnd, bool]:
    """By who found his connection closed: a shim that has let go of it before it heard him starts the exec now, and
    any other shim, or answer, leaves what came of it as unknown as it was."""
    try:
        end = await dial(place, request)
        return end, (await ask(end)).tty
    except BulkheadError:
        raise before from None


def _asks_for_more(spec: ExecSpec) -> bool:
    """Than a command, which is all that a shim can work out by itself."""
    return bool(spec.env or spec.user or spec.working_dir or spec.privileged or spec.tty)
