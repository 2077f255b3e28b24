"""The plain answers of handlers: JSON, and none."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from bulkhead.api.versions import HEADERS


def json(value: Any, status: int = 200) -> web.Response:
    """`value` as JSON with a newline, as Go's encoder ends it."""
    return encoded(msgspec.json.encode(value) + b"\n", status)


def encoded(body: bytes, status: int = 200) -> web.Response:
    """JSON that is bytes already."""
    return web.Response(status=status, body=body, content_type="application/json", headers=HEADERS)


def empty(status: int = 204) -> web.Response:
    return web.Response(status=status, headers=HEADERS)
