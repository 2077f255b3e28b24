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
from bulkhead.api.ports import Execs, InspectedExec, ProcessEnd, StartedExec, Stdio, Streams, Unreachable
from bulkhead.api.routes.containers import window_size
from bulkhead.api.schema import execs as schema
from bulkhead.api.splice import splice
from bulkhead.api.streams import STDOUT, frame, framing
from bulkhead.errors import BulkheadError, Conflict, NotFound, Unavailable

_GLANCE_FIRST, _GLANCE_LONGEST = 0.05, 1.0
_MOST_STARTED = 64
_CODE_SECONDS = 10.0


class ExecRoutes:
    def __init__(self, *, execs: Execs, stdio: Stdio) -> None:
        self._execs = execs
        self._stdio = stdio
        # The last that were started here, and whether they have a terminal, which a client leaves by its detach keys:
        # others have ended when their stream has, whatever else their shim came to tell.
        self._started: dict[str, tuple[ProcessEnd, bool]] = {}

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
        starting = functools.partial(self._execs.start, exec_id, detach=detach, tty=tty, height=height, width=width)
        if detach:
            await starting()
            return answers.empty(200)
        expected = await self._run_expected(exec_id, (height, width))
        process, is_tty = expected or await self._run_asked(exec_id, starting)
        self._remember(exec_id, process, is_tty)
        try:
            client = take_over(call, framing(call.version, tty))
            # Docker frames as the start says, whatever the exec was created with; docker-py relies on it.
            outward = _framed if is_tty and not tty else bytes
            await splice(client, process, outward, functools.partial(self._settled, exec_id))
        finally:
            process.close()
        return Hijacked()

    async def _run_expected(self, exec_id: str, size: tuple[int, int]) -> tuple[ProcessEnd, bool] | None:
        """Without asking for its start; None when its shim does not know it yet, or any more, or will not have it."""
        expected = self._execs.expected(exec_id)
        if expected is None or (any(size) and size != (expected.spec.height, expected.spec.width)):
            return None
        with contextlib.suppress(Unreachable, NotFound, Conflict):
            return await self._run(exec_id, expected)
        return None

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
            with contextlib.suppress(BulkheadError):
                await self._execs.inspect(exec_id, asked=True)
            raise

    async def _settled(self, exec_id: str) -> None:
        """When the shim dies the exec goes on: its client, which asks for its exit code next, waits for its end."""
        delay = _GLANCE_FIRST
        while True:
            with contextlib.suppress(Unavailable):
                if not (await self._execs.inspect(exec_id, asked=True)).running:
                    return
            await asyncio.sleep(delay)
            delay = min(delay * 2, _GLANCE_LONGEST)

    def _remember(self, exec_id: str, process: ProcessEnd, is_tty: bool) -> None:
        while len(self._started) >= _MOST_STARTED:
            del self._started[next(iter(self._started))]
        self._started[exec_id] = process, is_tty

    async def inspect(self, call: Call) -> web.StreamResponse:
        exec_id = call["id"]
        found = await self._execs.inspect(exec_id)
        if found.exit_code is None and self._has_ended(exec_id, found):
            # Its shim died when it had told its client and nobody else: the code is lost, but not as good as 0.
            del self._started[exec_id]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CODE_SECONDS):
                    await self._settled(exec_id)
            found = await self._execs.inspect(exec_id)
        return answers.json(schema.inspected(found))

    def _has_ended(self, exec_id: str, found: InspectedExec) -> bool:
        """Whether it was seen here."""
        process, is_tty = self._started.get(exec_id, (None, False))
        return process is not None and process.has_ended and not (is_tty and found.running)

    async def resize(self, call: Call) -> web.StreamResponse:
        height, width = window_size(call)
        await self._execs.resize(call["id"], height, width)
        return answers.empty(200)


def _framed(data: bytes) -> bytes:
    """A terminal's output for who asked for frames."""
    return frame(STDOUT, data)
