"""The plain answers of handlers: JSON, and none."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from bulkhead.api.versions import HEADERS


def json(value: Any, status: int = 200) -> web.Response:
    """`value` as JSON with a newline, as Go's encoder ends it."""
    return web.Response(
        status=status, body=msgspec.json.encode(value) + b"\n", content_type="application/json", headers=HEADERS
    )


def empty(status: int = 204) -> web.Response:
    return web.Response(status=status, headers=HEADERS)
