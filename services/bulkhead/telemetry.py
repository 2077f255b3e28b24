"""Structured logs of the services, and the request id that ties the lines of one call together.

A line is one JSON object on stderr: timestamp, level, service, pid, event, request_id, then the
event's own fields. What libraries say through `logging` comes out in the same shape.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec
import structlog

from bulkhead.plainlog import timestamp

REQUEST_ID_HEADER = "x-request-id"
# What clients send is untrusted: it ends in logs and in headers of the next hop.
_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_SOON_SECONDS, _MOST_OWED = 0.02, 256

_LEVELS = {
    level: logging.getLevelName(level).lower()
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
}

_request_id: ContextVar[str] = ContextVar("request_id", default="")


def request_id() -> str:
    """The id of the request that this task works for; empty outside any request."""
    return _request_id.get()


def bind_request_id(value: str | None) -> str:
    """Adopt a caller's id, or make a new one (16 hex digits) when it is absent or ill-formed."""
    chosen = value if value is not None and _ACCEPTABLE_ID.fullmatch(value) else os.urandom(8).hex()
    _request_id.set(chosen)
    return chosen


def tells(level: int) -> bool:
    """Whether a line of this level (of `logging`) is written at all; asked before much is put together for it."""
    return level >= _threshold


def line_soon(level: int, event: str, **fields: Any) -> None:
    """What every request tells, in the shape of all lines: structlog's way to it costs more than the line itself.

    A moment later and still in its turn: who is served next does not wait for the last one's line. With a loop that
    runs. A process that is killed takes the lines of that moment along.
    """
    if not _configured:
        structlog.get_logger().log(level, event, **fields)
    elif tells(level):
        _owed.append(_Owed(time.time(), request_id(), level, event, fields))
        if len(_owed) == 1:
            asyncio.get_running_loop().call_later(_SOON_SECONDS, settle)
        elif len(_owed) >= _MOST_OWED:
            settle()


def settle() -> None:
    """Write what `line_soon` has put off."""
    if _owed:
        _tell(b"")


def _tell(data: bytes) -> None:
    """To standard error, behind what is owed. What cannot be told (a full disk, a reader that has gone) is no error of
    whoever tells it."""
    if _owed:
        owed = _owed.copy()
        _owed.clear()
        data = b"".join([*map(_put_off, owed), data])
    try:
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()
    except OSError:
        pass


def configure(service: str, *, level: str = "info") -> None:
    """Send structlog's and logging's lines to stderr as JSON. Call once, before the loop starts."""
    global _threshold, _stamp, _configured
    threshold = _threshold = logging.getLevelNamesMapping()[level.upper()]
    stream = cast(BinaryIO, _Stream())
    _stamp, _configured = _Stamp(service), True
    atexit.register(settle)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _stamp,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_encode),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.BytesLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(threshold, logging.WARNING), handlers=[_Bridge()], force=True)


class _Stream:
    """Standard error, for structlog's lines."""

    @staticmethod
    def write(data: bytes) -> None:
        _tell(data)

    @staticmethod
    def flush() -> None:
        """Nothing waits."""


class _Stamp:
    """Puts the fields that every line has before the event's own."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, _logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**self.beginning(method, event.pop("event", "")), **event}

    def beginning(self, level: str, event: Any, at: float | None = None, bound: str | None = None) -> dict[str, Any]:
        """A line without the event's own fields, of now and of the current request unless those are given."""
        line: dict[str, Any] = {
            "timestamp": timestamp(at),
            "level": level,
            "service": self._service,
            "pid": os.getpid(),
            "event": event,
        }
        bound = request_id() if bound is None else bound
        if bound:
            line["request_id"] = bound
        return line


class _Owed(NamedTuple):
    """A line that was put off."""

    at: float
    request_id: str
    level: int
    event: str
    fields: dict[str, Any]


def _put_off(owed: _Owed) -> bytes:
    told = _stamp.beginning(_LEVELS[owed.level], owed.event, owed.at, owed.request_id)
    told.update(owed.fields)
    return _encode(told) + b"\n"


# Of this process, once it is configured.
_threshold = logging.DEBUG
_stamp = _Stamp("")
_configured = False
_owed: list[_Owed] = []


class _Bridge(logging.Handler):
    """Hands the records of `logging` (asyncio, aiohttp, grpclib) to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger()
        logger.log(record.levelno, record.getMessage(), logger_name=record.name, exc_info=record.exc_info or None)


_encoder = msgspec.json.Encoder(enc_hook=str)


def _encode(line: Mapping[str, Any], **_: Any) -> bytes:
    return _encoder.encode(line)
