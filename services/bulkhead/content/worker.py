"""Processes of our own that read what strangers wrote, seen from the service that starts them."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import Process

from bulkhead import errors
from bulkhead.errors import BulkheadError, Internal


async def end(worker: Process) -> None:
    """Kill the worker; it is gone when this returns, and also when it is cancelled."""
    if worker.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
    waiting = asyncio.ensure_future(worker.wait())
    cancelled: asyncio.CancelledError | None = None
    while not waiting.done():
        try:
            await asyncio.wait([waiting])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def error_told(name: str, message: str) -> BulkheadError:
    """The error of our vocabulary that a worker names; Internal for any other word."""
    kind = getattr(errors, name, Internal)
    if not (isinstance(kind, type) and issubclass(kind, BulkheadError)):
        kind = Internal
    return kind(message)
