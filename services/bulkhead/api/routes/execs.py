"""Second processes of containers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable

from aiohttp import web

from bulkhead.api import answers
from bulkhead.api.call import Call
from bulkhead.api.detach import check_keys
from bulkhead.api.hijack import Hijacked, take_over
from bulkhead.api.ports.execs import Execs, ShimExecs, StartedExec
from bulkhead.api.ports.stdio import ProcessEnd, Stdio, Streams, Unreachable
from bulkhead.api.routes.containers import window_size
from bulkhead.api.schema import execs as schema
from bulkhead.api.splice import splice
from bulkhead.api.streams import STDOUT, frame, framing
from bulkhead.errors import BulkheadError, Unavailable

_GLANCE_FIRST, _GLANCE_LONGEST = 0.05, 1.0


class ExecRoutes:
    def __init__(self, *, execs: Execs, shims: ShimExecs, stdio: Stdio) -> None:
        self._execs = execs
        self._shims = shims
        self._stdio = stdio

    async def create(self, call: Call) -> web.StreamResponse:
        body = await call.body(schema.ExecBody)
        check_keys(body.DetachKeys or "", "escape")
        ref, spec = call["id"], schema.spec_of(body)
        exec_id = await self._shims.create(ref, spec) or await self._execs.create(ref, spec)
        return answers.json({"Id": exec_id}, status=201)

    async def start(self, call: Call) -> web.StreamResponse:
        body = await call.body(schema.StartBody, default=schema.StartBody())
        height, width = schema.console_size(body.ConsoleSize)
        exec_id = call["id"]
        detach, tty = bool(body.Detach), bool(body.Tty)
        starting = functools.partial(self._execs.start, exec_id, detach=detach, tty=tty, height=height, width=width)
        if detach:
            await starting()
            return answers.empty(200)
        process, is_tty = await self._run_at_once(exec_id, height, width) or await self._run_asked(exec_id, starting)
        try:
            client = take_over(call, framing(call.version, tty))
            # Docker frames as the start says, whatever the exec was created with; docker-py relies on it.
            outward = _framed if is_tty and not tty else bytes
            await splice(client, process, outward, functools.partial(self._settled, exec_id))
        finally:
            process.close()
        return Hijacked()

    async def _run_at_once(self, exec_id: str, height: int, width: int) -> tuple[ProcessEnd, bool] | None:
        """None when its shim does not know it yet, or any more, or will not have it."""
        try:
            return await self._shims.start(exec_id, height, width)
        except Unavailable:
            await self._look_after(exec_id)
            raise

    async def _run_asked(self, exec_id: str, starting: Callable[[], Awaitable[StartedExec]]) -> tuple[ProcessEnd, bool]:
        started = await starting()
        with contextlib.suppress(Unreachable):
            return await self._run(exec_id, started)
        # Its shim was there a moment ago: if the container has ended, that is the answer.
        return await self._run(exec_id, await starting())

    async def _run(self, exec_id: str, started: StartedExec) -> tuple[ProcessEnd, bool]:
        spec = started.spec
        wanted = Streams(
            stdin=spec.attach_stdin,
            stdout=spec.attach_stdout,
            stderr=spec.attach_stderr,
            detach_keys=spec.detach_keys,
        )
        try:
            return await self._stdio.exec(started.socket, exec_id, wanted)
        except Unreachable:
            raise
        except Unavailable:
            await self._look_after(exec_id)
            raise

    async def _look_after(self, exec_id: str) -> None:
        """Its shim was asked, and nobody knows what came of it."""
        with contextlib.suppress(BulkheadError):
            await self._execs.inspect(exec_id, asked=True)

    async def _settled(self, exec_id: str) -> None:
        """When the shim dies the exec goes on: its client, which asks for its exit code next, waits for its end."""
        delay = _GLANCE_FIRST
        while True:
            with contextlib.suppress(Unavailable):
                if not (await self._execs.inspect(exec_id, asked=True)).running:
                    return
            await asyncio.sleep(delay)
            delay = min(delay * 2, _GLANCE_LONGEST)

    async def inspect(self, call: Call) -> web.StreamResponse:
        exec_id = call["id"]
        return answers.json(schema.inspected(self._shims.ended(exec_id) or await self._execs.inspect(exec_id)))

    async def resize(self, call: Call) -> web.StreamResponse:
        height, width = window_size(call)
        await self._execs.resize(call["id"], height, width)
        return answers.empty(200)


def _framed(data: bytes) -> bytes:
    """A terminal's output for who asked for frames."""
    return frame(STDOUT, data)
