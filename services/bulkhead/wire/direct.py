"""Calls between services without HTTP/2: ttrpc's frames on the service's own socket; what client and server share.

The services' contract is gRPC, and whoever speaks it is served. A call of one HTTP/2 stream costs either side about a
millisecond of Python, though, so our own clients say HELLO first, and where that is answered they go on in frames
(`wire.ttrpc`): the same methods, messages and errors. A server tells the two apart by the first byte, which is "P" for
HTTP/2 (RFC 9113, 3.4) and 0 for a frame.

Beyond ttrpc: HELLO, asked first of all, again for a sign of life (`pulse`), and answered with the same each time;
CANCEL, the caller has gone; DATA, one message of an answer in parts, which ends with a Response, or of a request in
parts, which ends with END. Of many calls on one connection none can be held back alone (see `SHORT`); what may be long
goes over a connection of its own (see `BODIES`), whose reader holds it back by not reading.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, cast

from bulkhead.errors import InvalidArgument
from bulkhead.wire.ttrpc import HEADER, REQUEST_ID_KEY, Request, Response
from bulkhead.wire.ttrpc_protobuf import SMALL, decode, read_value, varint

TYPE_DATA = 3
TYPE_HELLO = 0x10
TYPE_CANCEL = 0x11
TYPE_END = 0x12
# A list of ten thousand containers is several megabytes; both ends are the same user's.
LIMIT = 256 << 20
# Answers in parts that may come this way: of a few messages, which need no flow control.
SHORT = frozenset(("/bulkhead.manager.v1.Archives/Fill", "/bulkhead.manager.v1.Containers/Wait"))
# Calls that carry files, of any length: over HTTP/2 they were held to a quarter of a gigabyte per second.
BODIES = frozenset(
    (
        "/bulkhead.manager.v1.Archives/Read",
        "/bulkhead.manager.v1.Filesystems/Export",
        "/bulkhead.manager.v1.Filesystems/Import",
        "/bulkhead.manager.v1.Images/Load",
        "/bulkhead.manager.v1.Images/Save",
    )
)
# What an answer to HELLO says of a server that knows them.
KNOWS_BODIES = b"\1"
# So many bytes wait for their reader before the other end is held back.
MOST_HELD = 1 << 20


def bare(stream: int, kind: int, payload: bytes = b"") -> bytes:
    """One whole frame. Raises InvalidArgument when it exceeds the limit."""
    return b"".join(apart(stream, kind, payload))


def apart(stream: int, kind: int, payload: bytes) -> tuple[bytes, bytes]:
    """The same as header and payload, so that a long one is not copied. Raises as `bare`."""
    if len(payload) > LIMIT:
        raise InvalidArgument(f"cannot send message: {len(payload)} bytes exceed the limit of {LIMIT}")
    return HEADER.pack(len(payload), stream, kind, 0), payload


def request(route: str, message: bytes, request_id: str) -> bytes:
    """A `ttrpc.Request` for `/service/method`, encoded."""
    size = len(message)
    envelope = _called(route) + b"\x1a" + (SMALL[size] if size < 0x80 else varint(size)) + message
    return envelope + _told_id(request_id) if request_id else envelope


def response(message: bytes) -> bytes:
    """A `ttrpc.Response` that says yes, encoded."""
    size = len(message)
    return b"\x12" + (SMALL[size] if size < 0x80 else varint(size)) + message


class Asked(NamedTuple):
    """What a request's envelope says."""

    route: str
    message: bytes
    metadata: dict[str, str]


def asked(envelope: bytes) -> Asked:
    """Read a `ttrpc.Request`. InvalidArgument when it is none.

    Those that `request` has made are taken apart where they lie; of a route there are few spellings.
    """
    try:
        _, service = read_value(envelope, 1, 2)
        _, begun = read_value(envelope, service + 1, 2)
        message, end = read_value(envelope, begun + 1, 2)
        if envelope[0] == 0x0A and envelope[service] == 0x12 and envelope[begun] == 0x1A:
            told = _id_of(envelope[end:])
            if told is not None:
                return Asked(_route(envelope[:begun]), cast(bytes, message), told)
    except (IndexError, ValueError):
        # The whole reader says what is wrong with it.
        pass
    found = decode(Request, envelope)
    return Asked(
        f"/{found.service}/{found.method}", found.payload, {entry.key: entry.value for entry in found.metadata}
    )


def answered(envelope: bytes) -> Response:
    """Read a `ttrpc.Response`. InvalidArgument when it is none."""
    try:
        if envelope[0] == 0x12:
            payload, end = read_value(envelope, 1, 2)
            if end == len(envelope):
                return Response(payload=cast(bytes, payload))
    except (IndexError, ValueError):
        pass
    return decode(Response, envelope)


@lru_cache(maxsize=512)
def _route(beginning: bytes) -> str:
    """The route of an envelope that begins so."""
    found = decode(Request, beginning)
    return f"/{found.service}/{found.method}"


def _id_of(rest: bytes) -> dict[str, str] | None:
    """The metadata of an envelope of which so much is left, when it is as `_told_id` has it."""
    if not rest:
        return {}
    size = len(_ID_BEGINS)
    if not rest.startswith(_ID_BEGINS, 2) or rest[0] != 0x2A or rest[1] != len(rest) - 2 or len(rest) > 0x7F:
        return None
    if rest[size + 2] != len(rest) - size - 3:
        return None
    return {REQUEST_ID_KEY: rest[size + 3 :].decode()}


@lru_cache(maxsize=512)
def _called(route: str) -> bytes:
    _, service, method = route.split("/")
    return _field(b"\x0a", service.encode()) + _field(b"\x12", method.encode())


def _told_id(request_id: str) -> bytes:
    """The entry of the metadata."""
    own = request_id.encode()
    size = len(own)
    # Ids are short (`telemetry.bind_request_id`): both lengths are one byte.
    if size <= 0x7F - _ID_SIZE:
        return b"\x2a" + SMALL[_ID_SIZE + size] + _ID_BEGINS + SMALL[size] + own
    return _field(b"\x2a", _ID_BEGINS + varint(size) + own)


def _field(tag: bytes, payload: bytes) -> bytes:
    return tag + varint(len(payload)) + payload


_ID_BEGINS = _field(b"\x0a", REQUEST_ID_KEY.encode()) + b"\x12"
# Of an entry, but for the id: what it begins with, and the id's length.
_ID_SIZE = len(_ID_BEGINS) + 1
