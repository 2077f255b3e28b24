"""The handshake that turns a request into a raw stream, and the response object for aiohttp that follows it."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from bulkhead.api.call import Call
from bulkhead.api.connection import EngineConnection
from bulkhead.api.streams import RAW
from bulkhead.api.versions import HEADERS

_END_OF_HEAD = ("".join(f"{name}: {value}\r\n" for name, value in HEADERS.items()) + "\r\n").encode()


class Hijacked(web.StreamResponse):
    """Everything was said on the raw stream: aiohttp has only to close the connection."""

    def __init__(self, status: int = 101) -> None:
        super().__init__(status=status)
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


def take_over(call: Call, content_type: str) -> EngineConnection:
    """Answer `101 UPGRADED`, which Go's client insists on, or `200 OK` to who did not ask for an upgrade."""
    if "Upgrade" in call.request.headers:  # that alone, as Docker has it
        head = f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    else:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {RAW}\r\n"
    _send(call.connection, head)
    call.connection.hold_back()
    return call.connection


def refuse(call: Call, status: int, message: str) -> Hijacked:
    """An error after the point where Docker has hijacked: a status line, then plain text until the end."""
    _send(call.connection, f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {RAW}\r\n")
    call.connection.write(f"{message}\r\n".encode(errors="replace"))
    return Hijacked(status)


def _send(connection: EngineConnection, head: str) -> None:
    # Nobody reads more requests from here on.
    connection.hijacked = True
    connection.keep_alive(False)
    connection.write(head.encode() + _END_OF_HEAD)
