"""One request as a handler sees it: path arguments, query, filters, body, parsed by Docker's rules."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import msgspec
from aiohttp import web

from bulkhead.api import anycase
from bulkhead.api.connection import EngineConnection
from bulkhead.api.plain import PlainRequest
from bulkhead.api.versions import Version
from bulkhead.errors import InvalidArgument

# Docker sets no limit; a seccomp profile and thousands of labels fit in this with room to spare.
LARGEST_BODY = 8 << 20
# How much of a body is read, and for how long, only to be polite (256 KiB are Go's).
MOST_HEARD = 256 << 10
# A streamed body gets on when so many bytes come in the time that the client has (54 a second).
PROGRESS = 16 << 10
HEARD_SECONDS = 1.0

T = TypeVar("T")
Filters = Mapping[str, tuple[str, ...]]

_FALSE = frozenset(("", "0", "no", "false", "none"))
_LATEST = 253402300799  # the last second of the year 9999
_TIMESTAMP = re.compile(r"([0-9]+)(?:\.([0-9]{1,9})[0-9]*)?")


class Pace:
    """How long a body may still be waited for (`left`, seconds): `patience`, and as long again for each `progress`
    bytes."""

    __slots__ = ("_came", "_patience", "_progress", "left")

    def __init__(self, patience: float, progress: int) -> None:
        self._patience, self._progress = patience, progress
        self._came = 0
        self.left = patience

    def note(self, waited: float, size: int) -> None:
        """So many bytes came, after a wait of so many seconds."""
        self.left -= waited
        self._came += size
        if self._came >= self._progress:
            self._came, self.left = 0, self._patience


@dataclass(slots=True, kw_only=True)
class Call:
    """A request with its negotiated version and the arguments of its path.

    `patience`: how long (seconds) its body may be waited for; see `ApiConfig.body_timeout`.
    """

    request: web.BaseRequest | PlainRequest
    version: Version
    arguments: Mapping[str, str] = field(default_factory=dict)
    patience: float = 300.0

    def __getitem__(self, name: str) -> str:
        """The path's argument `name`."""
        return self.arguments[name]

    @property
    def connection(self) -> EngineConnection:
        return self.request.protocol  # type: ignore[return-value]  # of all that come by our own server

    @property
    def whole(self) -> web.BaseRequest:
        """The request as aiohttp has it, for answers and bodies that stream."""
        return self.request.whole if isinstance(self.request, PlainRequest) else self.request

    @property
    def answered(self) -> bool:
        """Whether something of the answer is out, so that an error can only break it off."""
        return self.connection.hijacked or self.request.writer.output_size > 0

    def text(self, name: str, default: str = "") -> str:
        return self.request.query.get(name, default)

    def texts(self, name: str) -> list[str]:
        return self.request.query.getall(name, [])

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean of the query: everything is true but "", 0, no, false and none."""
        value = self.request.query.get(name)
        return default if value is None else value.strip().lower() not in _FALSE

    def number(self, name: str) -> int | None:
        """An integer of the query; None when it is absent or empty."""
        value = self.request.query.get(name, "")
        return None if value == "" else integer(value)

    def moment(self, name: str, *, absent: Collection[str] = ("", "0")) -> int | None:
        """A time of the query, `seconds[.fraction]`, as Unix nanoseconds; None when it is one of `absent`."""
        value = self.request.query.get(name, "")
        if value in absent:
            return None
        match = _TIMESTAMP.fullmatch(value)
        if match is None:
            raise InvalidArgument(f'invalid value for "{name}": parsing time "{value}": invalid syntax')
        return min(int(match[1]), _LATEST) * 10**9 + int((match[2] or "").ljust(9, "0"))

    def filters(self, known: Collection[str]) -> Filters:
        """The query's `filters`, of which only the names in `known` are accepted."""
        return parse_filters(self.request.query.get("filters", ""), known)

    async def body(self, kind: type[T], *, default: T | None = None, may_be_absent: bool = True) -> T:
        """The JSON body as `kind`; `default`, if there is one, stands for null and for an absent one if it may be that.

        Raises InvalidArgument for another Content-Type, bad JSON, wrong types and trailing data.
        """
        data = await self._read()
        if default is not None and data.strip() in ((b"", b"null") if may_be_absent else (b"null",)):
            return default
        if data or "Content-Type" in self.request.headers:
            check_content_type(self.request.headers.get("Content-Type", ""))
        if not data:
            raise InvalidArgument("invalid JSON: got EOF while reading request body")
        return parse_json(data, kind)

    async def blocks(self, size: int) -> AsyncGenerator[bytes]:
        """The raw body, in blocks of at most `size` bytes; a client that waits to be asked for it is asked.

        Raises InvalidArgument when the client sends next to nothing for too long, or ends before the body does.
        """
        async for block in self._blocks(size, PROGRESS):
            yield block

    async def _blocks(self, size: int, progress: int) -> AsyncGenerator[bytes]:
        """Only the time that we wait for the client counts; `progress` bytes earn it all of its time again."""
        if self.request.headers.get("Expect", "").lower() == "100-continue":
            self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        clock, pace = asyncio.get_running_loop().time, Pace(self.patience, progress)
        content = self.whole.content
        while not content.at_eof():
            began = clock()
            try:
                async with asyncio.timeout(pace.left):
                    block = await content.read(size)
            except TimeoutError:
                raise InvalidArgument(f"request body is too slow: it got nowhere in {self.patience:g} s") from None
            except web.RequestPayloadError as error:
                raise InvalidArgument(f"cannot read request body: {error}") from error
            if not block:
                return
            pace.note(clock() - began, len(block))
            yield block

    async def hear_out(self) -> None:
        """Read what is left of a body, within limits, before an answer that does not depend on it.

        Clients whose writing is broken off by the answer report that beside it; Go's server waits as well.
        """
        if isinstance(self.request, PlainRequest):
            return  # all of it has come
        if self.request.content.at_eof() or self.request.headers.get("Expect"):
            return
        # RuntimeError: what the handler left behind reads it still.
        with contextlib.suppress(TimeoutError, ConnectionError, web.RequestPayloadError, RuntimeError):
            async with asyncio.timeout(HEARD_SECONDS):
                left = MOST_HEARD
                while left > 0 and (part := await self.request.content.readany()):
                    left -= len(part)

    async def _read(self) -> bytes:
        if isinstance(self.request, PlainRequest):
            return _checked(self.request.body)
        content = self.request.content
        if content.is_eof() and content.exception() is None and "Expect" not in self.request.headers:
            # Most come together with their head: nothing has to be waited for.
            return _checked(content.read_nowait())
        parts, size = [], 0
        async for part in self._blocks(1 << 16, LARGEST_BODY):
            size += len(part)
            if size > LARGEST_BODY:
                raise _too_large()
            parts.append(part)
        return b"".join(parts)


def _checked(body: bytes) -> bytes:
    if len(body) > LARGEST_BODY:
        raise _too_large()
    return body


def _too_large() -> InvalidArgument:
    return InvalidArgument(f"request body is larger than {LARGEST_BODY} bytes")


def check_content_type(value: str) -> None:
    """Raise InvalidArgument unless `value` says application/json."""
    kind = value.partition(";")[0].strip().lower()
    if not kind:
        raise InvalidArgument(f"malformed Content-Type header ({value}): mime: no media type")
    if kind != "application/json":
        raise InvalidArgument(f"unsupported Content-Type header ({value}): must be 'application/json'")


def parse_json(data: bytes, kind: type[T]) -> T:
    """Decode one JSON document as `kind`: unknown keys are ignored, keys of any case known, wrong types errors."""
    try:
        if anycase.perhaps(data):
            return cast(T, anycase.convert(data, kind))
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            return cast(T, anycase.convert(data, kind))  # it may be a null in a list
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        if "trailing characters" in str(error):
            raise InvalidArgument("unexpected content after JSON") from error
        raise InvalidArgument(f"invalid JSON: {error}") from error


def integer(value: str) -> int:
    """A decimal integer, or InvalidArgument with Go's text."""
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", value):
        raise InvalidArgument(f'strconv.Atoi: parsing "{value}": invalid syntax')
    return int(value)


def parse_filters(text: str, known: Collection[str]) -> Filters:
    """Docker's filters, `{"key":{"value":true}}` or the older `{"key":["value"]}`."""
    if not text:
        return {}
    try:
        decoded: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidArgument(f"invalid filter: {error}") from error
    if decoded is None:
        return {}
    if not isinstance(decoded, dict):
        raise InvalidArgument("invalid filter: not a JSON object")
    filters = {name: _filter_values(name, values) for name, values in decoded.items()}
    for name in filters:
        if name not in known:
            raise InvalidArgument(f"Invalid filter '{name}'")
    return filters


def _filter_values(name: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, dict) and all(isinstance(on, bool) for on in values.values()):
        return tuple(value for value, on in values.items() if on)
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return tuple(values)
    raise InvalidArgument(f"invalid filter '{name}': values must be strings")
