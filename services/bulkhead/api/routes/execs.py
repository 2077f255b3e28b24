"""Second processes of containers."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from bulkhead.api import answers
from bulkhead.api.call import Call
from bulkhead.api.detach import check_keys
from bulkhead.api.hijack import Hijacked, take_over
from bulkhead.api.ports import Execs, Stdio, Streams
from bulkhead.api.routes.containers import window_size
from bulkhead.api.schema import execs as schema
from bulkhead.api.splice import splice
from bulkhead.api.streams import STDOUT, frame, framing
from bulkhead.errors import Unavailable

_GLANCE_FIRST, _GLANCE_LONGEST = 0.05, 1.0


class ExecRoutes:
    def __init__(self, *, execs: Execs, stdio: Stdio) -> None:
        self._execs = execs
        self._stdio = stdio

    async def create(self, call: Call) -> web.StreamResponse:
        body = await call.body(schema.ExecBody)
        check_keys(body.DetachKeys or "", "escape")
        exec_id = await self._execs.create(call["id"], schema.spec_of(body))
        return answers.json({"Id": exec_id}, status=201)

    async def start(self, call: Call) -> web.StreamResponse:
        body = await call.body(schema.StartBody, default=schema.StartBody())
        height, width = schema.console_size(body.ConsoleSize)
        exec_id = call["id"]
        detach, tty = bool(body.Detach), bool(body.Tty)
        starting = self._execs.start(exec_id, detach=detach, tty=tty, height=height, width=width)
        if detach:
            await starting
            return answers.empty(200)
        started = await starting
        spec = started.spec
        wanted = Streams(
            stdin=spec.attach_stdin,
            stdout=spec.attach_stdout,
            stderr=spec.attach_stderr,
            detach_keys=spec.detach_keys,
        )
        process, is_tty = await self._stdio.exec(started.socket, exec_id, wanted)
        try:
            client = take_over(call, framing(call.version, tty))
            # Docker frames as the start says, whatever the exec was created with; docker-py relies on it.
            outward = _framed if is_tty and not tty else bytes
            await splice(client, process, outward, lambda: self._settled(exec_id) if process.broken else None)
        finally:
            process.close()
        return Hijacked()

    async def _settled(self, exec_id: str) -> None:
        """When the shim dies the exec goes on: its client, which asks for its exit code next, waits for its end."""
        delay = _GLANCE_FIRST
        while True:
            with contextlib.suppress(Unavailable):
                if not (await self._execs.inspect(exec_id)).running:
                    return
            await asyncio.sleep(delay)
            delay = min(delay * 2, _GLANCE_LONGEST)

    async def inspect(self, call: Call) -> web.StreamResponse:
        return answers.json(schema.inspected(await self._execs.inspect(call["id"])))

    async def resize(self, call: Call) -> web.StreamResponse:
        height, width = window_size(call)
        await self._execs.resize(call["id"], height, width)
        return answers.empty(200)


def _framed(data: bytes) -> bytes:
    """A terminal's output for who asked for frames."""
    return frame(STDOUT, data)
