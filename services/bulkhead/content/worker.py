"""Processes of our own that read what strangers wrote, seen from the service that starts them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from bulkhead import errors
from bulkhead.errors import BulkheadError, Internal

_SOURCE_ROOT = str(Path(__file__).resolve().parents[2])
_NOTHING: Mapping[str, str] = MappingProxyType({})


async def start(
    module: str,
    name: str,
    arguments: Sequence[str] = (),
    *,
    source: int = PIPE,
    output: int = PIPE,
    complaints: int = DEVNULL,
    kept: Sequence[int] = (),
    environment: Mapping[str, str] = _NOTHING,
) -> Process:
    """A worker that runs `module` and sees nothing of this process but what it is given. Raises Internal.

    `name` is for the error's text; `source`, `output` and `complaints` are its standard streams, `kept` the
    descriptors beside them.
    """
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-s", "-m", module, *arguments),
            stdin=source,
            stdout=output,
            stderr=complaints,
            cwd="/",
            env={"PYTHONPATH": _SOURCE_ROOT, **environment},
            pass_fds=kept,
        )
    except OSError as error:
        raise Internal(f"cannot start {name} worker: {(error.strerror or '').lower()}") from error


async def tell(worker: Process, document: bytes) -> None:
    """Write what it is to do. A caller that is cancelled meanwhile leaves no worker behind.

    One that died before it read everything tells why where its end is heard of.
    """
    assert worker.stdin is not None
    try:
        with contextlib.suppress(ConnectionError):
            worker.stdin.write(document)
            await worker.stdin.drain()
    except BaseException:
        await end(worker)
        raise


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
