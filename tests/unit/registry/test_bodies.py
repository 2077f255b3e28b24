"""What is read of a request's body."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pytest
from aiohttp import ClientConnectionError, StreamReader
from aiohttp.base_protocol import BaseProtocol

from bulkhead.registry import bodies
from bulkhead.registry.errors import Refusal


async def test_what_arrived_before_the_cut_is_read() -> None:
    """aiohttp itself raises the cut first; the beginning of an upload would be lost with every try."""
    loop = asyncio.get_running_loop()
    content = StreamReader(BaseProtocol(loop), 1 << 16, loop=loop)
    content.feed_data(b"begin")
    content.feed_data(b"ning")
    content.set_exception(ClientConnectionError("cut"))
    pieces = bodies.pieces(Mock(content=content))
    assert await anext(pieces) == b"beginning"
    with pytest.raises(Refusal, match="cut off"):
        await anext(pieces)
