"""Containers' streams: attach, wait and logs."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
from aiohttp import web

from bulkhead.api import websocket
from bulkhead.api.call import Call
from bulkhead.api.connection import EngineConnection
from bulkhead.api.detach import check_keys
from bulkhead.api.errors import status_of
from bulkhead.api.hijack import Hijacked, refuse, take_over
from bulkhead.api.logs import LogReader, LogRequest
from bulkhead.api.ports.containers import Containers, InspectedContainer, StdioAddress
from bulkhead.api.ports.stdio import ProcessEnd, Stdio, Streams, Unreachable
from bulkhead.api.splice import splice
from bulkhead.api.streams import begin, framing
from bulkhead.api.versions import Version
from bulkhead.api.waiting import Waits
from bulkhead.errors import BulkheadError, Conflict, InvalidArgument, NotImplementedYet
from bulkhead.model.lifecycle import Phase

CONDITIONS = frozenset(("", "not-running", "next-exit", "removed"))


class StreamRoutes:
    def __init__(self, *, containers: Containers, stdio: Stdio, waits: Waits, logs: LogReader) -> None:
        self._containers = containers
        self._stdio = stdio
        self._waits = waits
        self._logs = logs

    async def attach(self, call: Call) -> web.StreamResponse:
        try:
            return await self._attach(call)
        except BulkheadError as error:
            if call.answered:
                raise
            # Docker has hijacked by now, so its errors are plain text on the raw stream.
            return refuse(call, status_of(error), str(error))

    async def _attach(self, call: Call) -> web.StreamResponse:
        keys = call.text("detachKeys")
        check_keys(keys)
        wanted = Streams(
            stdin=call.flag("stdin"), stdout=call.flag("stdout"), stderr=call.flag("stderr"), detach_keys=keys
        )
        if not call.flag("stream"):
            return await self._attach_to_log(call, wanted)
        found, address = await asyncio.gather(
            self._containers.inspect(call["id"]), self._containers.stdio(call["id"], attach=True)
        )
        _check_attachable(call["id"], found)
        process, tty = await self._dialled(call["id"], address, wanted)
        try:
            client = take_over(call, framing(call.version, tty))
            if call.flag("logs"):
                await self._replay(call, client, wanted)
            await splice(client, process)
        finally:
            process.close()
        return Hijacked()

    async def attach_websocket(self, call: Call) -> web.StreamResponse:
        keys = call.text("detachKeys")
        check_keys(keys)
        websocket.check(call)
        wanted = Streams(
            stdin=call.flag("stdin"), stdout=call.flag("stdout"), stderr=call.flag("stderr"), detach_keys=keys
        )
        found = await self._containers.inspect(call["id"])
        _check_attachable(call["id"], found)
        if not call.flag("stream"):
            return await self._show_log(call, found, wanted)
        address = await self._containers.stdio(call["id"], attach=True)
        process, tty = await self._dialled(call["id"], address, wanted)
        try:
            socket = await websocket.accept(call)
            if call.flag("logs"):
                await self._replay_unframed(socket, found, wanted)
            await websocket.converse(socket, process, framed=not tty)
        finally:
            process.close()
        return socket.response

    async def _dialled(self, ref: str, address: StdioAddress, wanted: Streams) -> tuple[ProcessEnd, bool]:
        """Its shim was there a moment ago: a manager that has died since, and come back, may have given it back."""
        with contextlib.suppress(Unreachable):
            return await self._stdio.attach(address.socket, wanted)
        address = await self._containers.stdio(ref, attach=True)
        return await self._stdio.attach(address.socket, wanted)

    async def _show_log(self, call: Call, found: InspectedContainer, wanted: Streams) -> web.StreamResponse:
        socket = await websocket.accept(call)
        if call.flag("logs"):
            await self._replay_unframed(socket, found, wanted)
        await socket.response.close()
        return socket.response

    async def _replay_unframed(self, socket: websocket.Socket, found: InspectedContainer, wanted: Streams) -> None:
        request = LogRequest(stdout=wanted.stdout, stderr=wanted.stderr, framed=False)
        async with self._logs.opened(found, request) as blocks:
            async for block in blocks:
                await socket.say(block)

    async def _attach_to_log(self, call: Call, wanted: Streams) -> web.StreamResponse:
        """Without `stream`, attach is the log so far, or nothing."""
        found = await self._containers.inspect(call["id"])
        _check_attachable(call["id"], found)
        client = take_over(call, framing(call.version, found.spec.tty))
        if call.flag("logs"):
            await self._replay(call, client, wanted)
        return Hijacked()

    async def _replay(self, call: Call, client: EngineConnection, wanted: Streams) -> None:
        """What was logged before, ahead of the live stream."""
        found = await self._containers.inspect(call["id"])
        request = LogRequest(stdout=wanted.stdout, stderr=wanted.stderr, framed=not found.spec.tty)
        async with self._logs.opened(found, request) as blocks:
            async for block in blocks:
                client.write(block)
                await client.drain()

    async def wait(self, call: Call) -> web.StreamResponse:
        condition = call.text("condition") if call.version >= Version(1, 30) else ""
        if condition not in CONDITIONS:
            if call.version >= Version(1, 42):
                raise InvalidArgument(f'invalid condition: "{condition}"')
            condition = ""
        async with contextlib.aclosing(self._waits.wait(call["id"], condition or "not-running")) as steps:
            # The first step says "armed": clients start the container once they see our headers.
            step = await anext(steps)
            response = await begin(call, endless=True)
            ended = step or await anext(steps)
            assert ended is not None
            error = {"Error": {"Message": ended.error}} if ended.error else {}
            # Together with the body's end: one packet, for which the client is woken once.
            await response.write_eof(msgspec.json.encode({"StatusCode": ended.exit_code, **error}) + b"\n")
        return response

    async def logs(self, call: Call) -> web.StreamResponse:
        stdout, stderr = call.flag("stdout"), call.flag("stderr")
        if not stdout and not stderr:
            raise InvalidArgument("Bad parameters: you must choose at least one stream")
        since, until = call.moment("since"), call.moment("until")
        found = await self._containers.inspect(call["id"])
        if not found.log_path:
            raise NotImplementedYet("configured logging driver does not support reading")
        request = LogRequest(
            stdout=stdout,
            stderr=stderr,
            since=since,
            until=until,
            tail=_tail(call.text("tail")),
            timestamps=call.flag("timestamps"),
            details=call.flag("details"),
            follow=call.flag("follow"),
            framed=not found.spec.tty,
        )
        # Opened before the headers go out: clients may remove the container as soon as they have them.
        async with self._logs.opened(found, request) as blocks:
            response = await begin(call, framing(call.version, found.spec.tty), endless=request.follow)
            async for block in blocks:
                await response.write(block)
        return response


def _check_attachable(ref: str, found: InspectedContainer) -> None:
    if found.phase is Phase.PAUSED:
        raise Conflict(f"container {ref} is paused, unpause the container before attach")
    if found.phase is Phase.RESTARTING:
        raise Conflict(f"container {ref} is restarting, wait until the container is running")


def _tail(text: str) -> int | None:
    """A number of lines; what is no number means all, as in Docker."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
