"""A client's connection: HTTP/1.1 until a handler hijacks it, then raw bytes both ways.

aiohttp speaks the HTTP, but for requests that are plain (`plain`). For attach and exec
start the connection must become a plain duplex stream, with the `101 UPGRADED` handshake or without (docker-py, curl),
and neither a byte that the client sent behind its request nor its half-close may be lost. So a request that may be
hijacked is cut out of the stream here: what follows its head and body is held until the handler takes the connection
over, or is the next request when it does not.

A client that half-closes still gets its answer. One that is gone (EPOLLHUP, which unlike EOF tells a closed
Unix socket from a half-closed one) cancels its handler.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.http_writer import StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import ERROR, PayloadAccessError, RequestHandler, _ErrInfo

from bulkhead.api.answers import LAST_CHUNK, Growing, Whole
from bulkhead.api.duplex import Listener
from bulkhead.api.errors import body_of
from bulkhead.api.hangup import HangupWatch
from bulkhead.api.head_first import BehindHead
from bulkhead.api.plain import PlainRequest

log = structlog.get_logger()

_HIJACKS = rb"(?:/v[0-9.]+)?/(?:containers/[^/? ]+/attach|exec/[^/? ]+/start)[? ]"
# Other spellings of a path (escapes, a whole URL) are not looked into: to hold back what is behind them costs nothing.
_MAY_HIJACK = re.compile(rb"POST (?:" + _HIJACKS + rb"|[^/]|[^? ]*%)")
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*\r\n", re.IGNORECASE)
_LONGEST_HEAD = 16 << 10
_MOST_HELD = 64 << 10
# How long a head that is there waits for a body that is not: who writes them one by one (docker-py) does so at once.
_BODY_SECONDS = 0.005
# What a whole head may have with Docker: filters in the query and X-Registry-Config of many registries are long.
LONGEST_HEAD = (1 << 20) + 4096
_TOO_LATE = PayloadAccessError()
_TOO_LONG = LineTooLong(b"", LONGEST_HEAD)
_OURS = (Whole, Growing)


class EngineConnection(RequestHandler):
    """aiohttp's connection, which a handler may take over by `listen`."""

    __slots__ = ("_answered", "_behind_head", "_body_timer", "_eof_written", "_expected", "_hangup", "_head",
                 "_head_size", "_held", "_held_paused", "_listener", "_mid_head", "_peer_ended", "_plain", "_unread",
                 "behind", "chunked", "endless", "hijacked", "over")  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.hijacked = False  # raw bytes were written: no HTTP can follow
        self.over: float | None = None  # when the raw stream was: what is done for it after that keeps nobody waiting
        self.endless = False  # the handler streams until the client leaves: a stop of the daemon does not wait for it
        self.chunked = False  # and what it streams are chunks, the last of which is empty
        self.behind: Callable[[], None] | None = None  # called once the answer to the request is out
        # What aiohttp would ask the kernel for, and nobody else: requests tell of their peer only in its access log.
        self._cache.update(ssl_context=None, peername=None, sockname=None)
        self._answered = 0
        self._head = b""  # a head that may be hijacked and is not complete, or waits for its body
        self._body_timer: asyncio.TimerHandle | None = None  # until it waits for that
        self._mid_head = False  # aiohttp has the beginning of a head
        self._head_size = 0  # so much of it
        self._unread: Any = None  # the body of a request that is under way, which is aiohttp's to its end
        self._expected = 0  # bytes of head and body still to be handed to aiohttp
        self._held: bytearray | None = None  # what came behind a request that may be hijacked, or is plain
        self._plain = False  # it is behind one that is under way and that aiohttp does not know
        self._held_paused = False
        self._listener: Listener | None = None
        self._peer_ended = False
        self._eof_written = False
        self._hangup: HangupWatch | None = None
        self._behind_head: BehindHead | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As aiohttp's, which asks several things of a socket that only TCP's can tell."""
        if self._tcp_keepalive:
            super().connection_made(transport)
            return
        assert self._manager is not None
        self.transport = cast(asyncio.Transport, transport)
        self._manager.connection_made(self, self.transport)
        self._await_request()
        self._task_handler = self._loop.create_task(self.start())

    def _await_request(self) -> None:
        """One that does not come in time ends the connection."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    # -- bytes in

    def data_received(self, data: bytes) -> None:
        if self._listener is not None:
            self._listener.received(data)
        elif self._held is not None:
            self._feed(data)
        elif self._unread is not None and not self._unread.is_eof():
            self._pass_on(data)
        elif not self._head and (self._mid_head or self._request_count != self._answered):
            super().data_received(data)
            self._note_head(data if self._mid_head else b"")
        else:
            self._begin(self._head + data, waits=self._body_timer is None or not self._stops_waiting())

    def _begin(self, data: bytes, *, waits: bool = True) -> None:
        """At a request's first byte: is it one that may be hijacked? `waits`: for its body, a moment."""
        self._head = b""
        short = len(data) < _LONGEST_HEAD
        if b"\n" not in data and short and (data.startswith(b"POST ") or b"POST ".startswith(data)):
            self._head = data
        elif _MAY_HIJACK.match(data) is None or b"\n\n" in data:
            if not self._take_plain(data) and not (waits and self._waits_for_body(data)):
                self._pass_on(data)
        elif (end := data.find(b"\r\n\r\n")) < 0 and short:
            self._head = data
        elif end < 0 or b"\r\ntransfer-encoding:" in data[:end].lower():
            self._pass_on(data)
        else:
            length = _CONTENT_LENGTH.search(data, 0, end + 2)
            self._begin_hijackable(data, end + 4 + (int(length[1]) if length else 0), waits=waits)

    def _begin_hijackable(self, data: bytes, size: int, *, waits: bool) -> None:
        """At the first byte of a request of `size` bytes, behind which may be what a handler takes over."""
        if self._take_plain(data[:size], may_upgrade=True):
            self._plain = False
            data = data[size:]
        elif waits and self._waits_for_body(data):
            return
        else:
            self._expected, self._held = size, bytearray()
        if data:
            self._feed(data)

    def _take_plain(self, data: bytes, *, may_upgrade: bool = False) -> bool:
        """Whether all of it is one request that needs no aiohttp, which is answered then.

        Not what comes while an earlier one is not through: its answer may be out before the last of its body is here,
        and that belongs to nobody else, whatever it looks like.
        """
        if not self._is_free():
            return False
        request = PlainRequest.read(data, self, may_upgrade=may_upgrade)
        if request is None:
            return False
        # What comes behind it is not aiohttp's before it is: their bytes would be mixed.
        self._plain, self._expected, self._held = True, 0, bytearray()
        self._request_count += 1
        self._messages.append((cast(Any, request), cast(Any, None)))
        if self._waiter is not None:
            self._waiter.set_result(None)
        return True

    def _is_free(self) -> bool:
        """Whether all that was asked before is answered, and more may be asked."""
        waiter = self._waiter
        # Of a new connection nobody may wait yet for the first request.
        if waiter.done() if waiter is not None else self._request_count:
            return False
        return not (self._close or self._force_close or self._upgraded)

    def _waits_for_body(self, data: bytes) -> bool:
        """Whether these bytes lack no more than a small body, which is waited for: they may be plain with it."""
        if not self._is_free() or not _lacks_body(data):
            return False
        self._head = data
        self._body_timer = self._loop.call_later(_BODY_SECONDS, self._wait_no_more)
        return True

    def _wait_no_more(self) -> None:
        """Its handler may not want the body at all."""
        if self._stops_waiting():
            self._begin(self._head, waits=False)

    def _stops_waiting(self) -> bool:
        """Whether a body was waited for."""
        timer, self._body_timer = self._body_timer, None
        if timer is not None:
            timer.cancel()
        return timer is not None

    def whole(self, data: bytes) -> web.BaseRequest:
        """What aiohttp makes of the bytes of a plain request. Raises ConnectionError when the connection is gone."""
        if self._parser is None:
            raise ConnectionResetError("the client has gone")
        [(message, payload)], self._upgraded, _ = self._parser.feed_data(data)
        self._parser.message_consumed()
        request = self._request_of(message, payload)[0]
        self._current_request = request
        if self._plain:
            self._release()
        return request

    def _pass_on(self, data: bytes) -> None:
        super().data_received(data)
        self._note_head(data)

    def _note_head(self, data: bytes) -> None:
        """Whether aiohttp has the beginning of a head, behind `data`: it counts the lines, and the bytes of each."""
        self._mid_head = bool(data) and self._request_count == self._answered
        self._head_size = self._head_size + len(data) if self._mid_head else 0
        if self._head_size > LONGEST_HEAD:
            self._mid_head, self._head_size = False, 0
            self._request_count += 1
            self._messages.append((_ErrInfo(400, _TOO_LONG, _TOO_LONG.message), EMPTY_PAYLOAD))
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    def _feed(self, data: bytes) -> None:
        assert self._held is not None
        now, rest = data[: self._expected], data[self._expected :]
        self._expected -= len(now)
        self._held += rest
        if len(self._held) > _MOST_HELD and not self._held_paused and self.transport is not None:
            self._held_paused = True
            self.transport.pause_reading()
        if now:
            super().data_received(now)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        self._wait_no_more()
        self._peer_ended = True
        if self._listener is not None:
            if not self._eof_written:  # else both have said that this was all, and it is closed now
                self._watch_hangup()
            self._listener.ended()
            return True
        if self._request_count == self._answered:
            return None
        if self._held is None or self._plain:
            # Requests already read are answered, then the connection is closed.
            self._close = True
        self._cut_short()
        self._watch_hangup()
        return True

    def _cut_short(self) -> None:
        """The rest of a body will not come."""
        for payload in (self._unread, *(each for _, each in self._messages)):
            if payload is not None and not payload.is_eof():
                payload.set_exception(web.RequestPayloadError("unexpected EOF"))

    def _watch_hangup(self) -> None:
        if self.transport is not None and self._hangup is None:
            self._hangup = HangupWatch(self.transport)

    # -- requests

    async def start(self) -> None:
        """aiohttp's way from request to request, without a task for each: one costs more than most handlers.

        What a handler binds to its context stays there until the next one binds its own.
        """
        while not self._force_close and await self._serve(*await self._next_message()):
            self._await_request()
            if self._messages:
                # Who asks much at once waits for all others in between.
                await asyncio.sleep(0)
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _next_message(self) -> Any:
        if not self._messages:
            try:
                self._waiter = self._loop.create_future()
                await self._waiter
            finally:
                self._waiter = None
        received = self._messages.popleft()
        if isinstance(received[0], PlainRequest):
            return received
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return received

    async def _serve(self, message: Any, payload: Any) -> bool:
        """Answer a request; whether there may be another."""
        try:
            if isinstance(message, PlainRequest):
                await self._serve_plain(message)
            else:
                await self._serve_streaming(message, payload)
        except ConnectionError:
            return False
        except Exception as error:
            # First: nobody waits for an answer because the line about it cannot be written.
            self.force_close()
            self.log_exception("Unhandled exception", exc_info=error)
        except BaseException:
            self.force_close()
            raise
        return bool(self._keepalive) and not self.leaves

    async def _serve_streaming(self, message: Any, payload: Any) -> None:
        """Raises ConnectionError when there is nobody to be answered."""
        request, handler = self._request_of(message, payload)
        self._unread = payload
        try:
            response, lost = await self._handle_request(request, None, handler)
            if lost:
                raise ConnectionResetError("the client has gone")
            self._keepalive = bool(response.keep_alive)
            if not payload.is_eof() and payload.exception() is None and not self._force_close:
                await self._linger(payload)
            payload.set_exception(_TOO_LATE)
        finally:
            self._unread = None
            request._task = None  # type: ignore[assignment]  # or they would hold each other

    async def _serve_plain(self, request: PlainRequest) -> None:
        """Raises ConnectionError when there is nobody to be answered."""
        assert self._manager is not None
        self._manager.requests_count += 1
        self._request_in_progress = True
        try:
            await self._answer_plain(request)
        finally:
            self._request_in_progress = False
            self._current_request = None
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)
            if request.is_whole:
                request.whole._task = None  # type: ignore[assignment]  # or they would hold each other

    async def _answer_plain(self, request: PlainRequest) -> None:
        response = await cast(Any, self._request_handler)(request)
        if not request.is_whole and (self.hijacked or isinstance(response, _OURS)):
            self._begin_answer(response)
            try:
                if self.hijacked:
                    pass  # everything was said on the raw stream
                elif isinstance(response, Whole):
                    await self.send(response.encoded())
                else:
                    await cast(Growing, response).write_eof()
            finally:
                self._end_answer()
            self._release()
        else:
            response, lost = await self.finish_response(request.whole, response, None)
            if lost:
                raise ConnectionResetError("the client has gone")
        self._keepalive = bool(response.keep_alive)

    @property
    def leaves(self) -> bool:
        """Whether the next answer is the last."""
        return self._close or self._force_close

    async def send(self, data: bytes) -> None:
        """Write some of an answer. Raises ConnectionError when there is nobody to read it.

        A client that asks on and on and does not read has the next of it when it has taken this.
        """
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self.transport.write(data)
        if self._paused:
            await self.drain()

    def _request_of(self, message: Any, payload: Any) -> tuple[web.BaseRequest, Any]:
        """What a message asks, and who answers it."""
        assert self._manager is not None and self._request_factory is not None
        self._manager.requests_count += 1
        handler: Any = self._request_handler
        if isinstance(message, _ErrInfo):
            handler, message = self._make_error_handler(message), ERROR
        writer = StreamWriter(self, self._loop)
        return self._request_factory(message, payload, self, writer, cast(Any, self._task_handler)), handler

    async def _linger(self, payload: Any) -> None:
        """Read what its handler left of a body, or nothing more is read of a client who sends too slowly."""
        try:
            async with asyncio.timeout(self._lingering_time):
                while not payload.is_eof():
                    await payload.readany()
        except TimeoutError:
            if not self._force_close:
                self.close()

    # -- the end of a request

    def leave(self) -> None:
        """Take no more requests: one that is under way is answered, a stream without an end is ended, then close."""
        self._wait_no_more()
        if not self._request_in_progress and not self._messages:
            self.force_close()
            return
        self._close = True
        if self.endless and self.transport is not None:
            self._let_go()
            # Each chunk is one write, so this comes between two of them, and the client sees a whole answer.
            if self.chunked and not self.hijacked:
                self.transport.write(LAST_CHUNK)
            self.transport.close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        self._begin_answer(resp)
        try:
            answer = await super().finish_response(request, resp, start_time)
        finally:
            self._end_answer()
        self._release()
        return answer

    def _begin_answer(self, response: web.StreamResponse | Growing) -> None:
        self._answered += 1
        self.endless = self.chunked = False
        if self._close and isinstance(response, web.StreamResponse) and not response.prepared:
            response.force_close()

    def _end_answer(self) -> None:
        behind, self.behind = self.behind, None
        if behind is not None:
            behind()

    def _release(self) -> None:
        """The handler did not take over: what was held is the next request."""
        if self._held is None or self._listener is not None:
            return
        held, self._held, self._plain = bytes(self._held), None, False
        if self._held_paused:
            self._held_paused = False
            self.resume_reading()
        if held:
            self.data_received(held)
        if self._peer_ended:
            self._close = True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP is one line of the log, not a traceback, and one answer in Docker's shape."""
        log.info("not a request", reason=ascii(message or exc))
        if self.hijacked or request.writer.output_size > 0:
            raise ConnectionError("part of the answer is out: it can only be broken off")
        text = "malformed HTTP request" if status == 400 else f"internal error: {exc}"
        if _is_too_long(exc):
            status, text = 431, "request header fields too large"
        response = web.Response(status=status, body=body_of(text), content_type="application/json")
        response.force_close()
        return response

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stops_waiting()
        if self._hangup is not None:
            self._hangup.close()
            self._hangup = None
        if self._behind_head is not None:
            self._behind_head.drop()
            self._behind_head = None
        if self._listener is not None:
            self._listener.lost()
        super().connection_lost(exc)

    # -- the hijacked stream (an End)

    def listen(self, listener: Listener) -> None:
        self._listener = listener
        self.endless = True
        held, self._held = bytes(self._held or b""), None
        if held:
            listener.received(held)
        if self._held_paused:
            self._held_paused = False
            self._resume_transport_reading()
        if self._behind_head is not None and self._behind_head.full:
            listener.writing_paused()
        if self._peer_ended:
            listener.ended()
        if self.transport is None:
            listener.lost()

    def hold_back(self) -> None:
        """What is written from now on waits, for a moment at most, until the client has read all that was before."""
        if self.transport is not None:
            self._behind_head = BehindHead(self.transport, self._let_go)

    def write(self, data: bytes) -> None:
        if self._behind_head is not None:
            if self._behind_head.hold(data):
                if self._behind_head.full and not self._paused:
                    self.pause_writing()
                return
            self._behind_head = None
        if self.transport is not None:
            self.transport.write(data)

    def _let_go(self) -> None:
        """Write what was held back."""
        behind, self._behind_head = self._behind_head, None
        if behind is None:
            return
        held = behind.drop()
        if behind.full and self._paused:
            self.resume_writing()
        if self.transport is not None and not self.transport.is_closing():
            if held:
                self.transport.write(held)
            if self._eof_written:
                self._write_eof()

    async def drain(self) -> None:
        """Wait until the client has read enough for more to be written; raises ConnectionError when it is gone."""
        await self._drain_helper()

    def write_eof(self) -> None:
        self._eof_written = True
        self.over = time.monotonic()
        if self._behind_head is None or not self._behind_head.holds:
            self._write_eof()

    def _write_eof(self) -> None:
        if self.transport is not None and self.transport.can_write_eof():
            self.transport.write_eof()

    def close(self) -> None:
        self._let_go()
        super().close()

    def pause_reading(self) -> None:
        if self._listener is None:
            super().pause_reading()
        else:
            self._pause_transport_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        if self._listener is None:
            super().resume_reading(resume_parser)
        else:
            self._resume_transport_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._listener is not None:
            self._listener.writing_paused()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._listener is not None:
            self._listener.writing_resumed()


def _lacks_body(data: bytes) -> bool:
    """Whether a head is here, but not all of the body that it announces; unless it is long, or waited for itself."""
    end = data.find(b"\r\n\r\n")
    length = _CONTENT_LENGTH.search(data, 0, end + 2) if end >= 0 else None
    missing = end + 4 + int(length[1]) - len(data) if length is not None else 0
    return 0 < missing <= _MOST_HELD and b"\nexpect:" not in data[:end].lower()


def _is_too_long(error: BaseException | None) -> bool:
    """Whether a head was refused for its length or its number of lines; Go's server answers both, and URIs, by 431."""
    return isinstance(error, LineTooLong) or (isinstance(error, BadHttpMessage) and "Too many headers" in error.message)
