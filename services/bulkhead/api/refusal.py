"""What a client hears for whom there is no room."""

from __future__ import annotations

import asyncio
from typing import cast

from bulkhead.api.errors import body_of

# How long one who is refused may take to ask.
REFUSAL_SECONDS = 5.0
_REFUSED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n"
)


class Refusal(asyncio.Protocol):
    """A connection that there is no room for: its first request is answered 503, and that is all."""

    def __init__(self, reason: str) -> None:
        self._body = body_of(reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not asyncio.Transport by inheritance.
        self._transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(REFUSAL_SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Not before something was asked: a client that is cut off while it asks sees no answer."""
        self._transport.write(_REFUSED % len(self._body) + self._body)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
