"""ttrpc: containerd's framing of protobuf calls over a Unix socket; what client and server share.

A frame is a 10-byte header (payload length u32, stream id u32, type u8, flags u8, big endian) and a
payload of at most 4 MiB. Type 1 carries a Request, type 2 the Response on the same stream id; the
caller's ids are odd and grow. (containerd/ttrpc PROTOCOL.md)
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from bulkhead.errors import InvalidArgument
from bulkhead.wire.ttrpc_protobuf import BYTES, MESSAGE, SIGNED, STRING, Field, Message

MAX_PAYLOAD = 4 << 20
TYPE_REQUEST = 1
TYPE_RESPONSE = 2
REQUEST_ID_KEY = "x-request-id"
HEADER = struct.Struct(">IIBB")
_CREDENTIALS = struct.Struct("3i")


class Frame(NamedTuple):
    """One frame as it came."""

    stream: int
    type: int
    payload: bytes


@dataclass(slots=True)
class KeyValue(Message):
    key: str = ""
    value: str = ""
    FIELDS: ClassVar = (Field(1, "key", STRING), Field(2, "value", STRING))


@dataclass(slots=True)
class Request(Message):
    """The envelope of a call."""

    service: str = ""
    method: str = ""
    payload: bytes = b""
    timeout_nano: int = 0
    metadata: list[KeyValue] = field(default_factory=list)
    FIELDS: ClassVar = (
        Field(1, "service", STRING),
        Field(2, "method", STRING),
        Field(3, "payload", BYTES),
        Field(4, "timeout_nano", SIGNED),
        Field(5, "metadata", MESSAGE, KeyValue, repeated=True),
    )

    def request_id(self) -> str:
        """The caller's request id, empty when it sent none."""
        return next((item.value for item in self.metadata if item.key == REQUEST_ID_KEY), "")


@dataclass(slots=True)
class Status(Message):
    """google.rpc.Status without its details."""

    code: int = 0
    message: str = ""
    FIELDS: ClassVar = (Field(1, "code", SIGNED), Field(2, "message", STRING))


@dataclass(slots=True)
class Response(Message):
    """The envelope of an answer; a status with a code other than 0 is an error."""

    status: Status | None = None
    payload: bytes = b""
    FIELDS: ClassVar = (Field(1, "status", MESSAGE, Status), Field(2, "payload", BYTES))


def frame(stream: int, kind: int, payload: bytes) -> bytes:
    """One whole frame; InvalidArgument when the message exceeds the limit."""
    if len(payload) > MAX_PAYLOAD:
        raise InvalidArgument(f"cannot send message: {len(payload)} bytes exceed the limit of {MAX_PAYLOAD}")
    return HEADER.pack(len(payload), stream, kind, 0) + payload


class FrameReader:
    """Cuts a byte stream into frames of at most `limit` bytes."""

    __slots__ = ("_limit", "_missing", "_pieces")

    def __init__(self, limit: int = MAX_PAYLOAD) -> None:
        self._limit = limit
        # What came of a frame that is not whole: a long one is put together once, not piece by piece.
        self._pieces: list[bytes] = []
        self._missing = 0

    def feed(self, data: bytes) -> Iterable[Frame]:
        """The frames that `data` completes, to be taken before more is fed. InvalidArgument when one is too long."""
        if not self._pieces:
            if len(data) >= HEADER.size:
                length, stream, kind, _ = HEADER.unpack_from(data)
                if len(data) == HEADER.size + length and length <= self._limit:
                    return (Frame(stream, kind, data[HEADER.size :]),)
            return self._cut(data)
        self._pieces.append(data)
        self._missing -= len(data)
        return () if self._missing > 0 else self._cut(b"".join(self._pieces))

    def _cut(self, data: bytes) -> Iterator[Frame]:
        begun, beyond = 0, HEADER.size
        while len(data) >= beyond:
            length, stream, kind, _ = HEADER.unpack_from(data, begun)
            if length > self._limit:
                raise InvalidArgument(f"cannot read frame: {length} bytes exceed the limit of {self._limit}")
            beyond = begun + HEADER.size + length
            if len(data) < beyond:
                break
            yield Frame(stream, kind, data[begun + HEADER.size : beyond])
            begun, beyond = beyond, beyond + HEADER.size
        self._pieces = [data[begun:]] if begun < len(data) else []
        self._missing = beyond - len(data)


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process at the other end (SO_PEERCRED, unix(7))."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


def is_own_user(connection: socket.socket) -> bool:
    """Whether the peer runs as this process's user; the mode of the directory is the first wall, this the second."""
    return peer_of(connection)[1] == os.geteuid()
