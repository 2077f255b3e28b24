"""The certificate that the registry shows, read again when its files change."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from bulkhead.errors import InvalidArgument

# How often the files are looked at, in seconds: certificates are renewed days before they run out.
LOOK_SECONDS = 10.0
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """PEM files of a certificate chain and its key, and the least TLS version spoken."""

    certificate: Path
    key: Path
    minimum: str = "1.2"


@asynccontextmanager
async def serving(files: Certificate | None) -> AsyncIterator[ssl.SSLContext | None]:
    """A context that follows the files while it is served; None without files. Raises InvalidArgument."""
    if files is None:
        yield None
        return
    context = _loaded(files)
    watcher = asyncio.create_task(_watch(context, files))
    try:
        yield context
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


async def _watch(context: ssl.SSLContext, files: Certificate) -> None:
    seen = _signature(files)
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = _signature(files)
        if now == seen:
            continue
        seen = now
        try:
            # A pair that does not fit would leave the context half changed: tried on another one first.
            _loaded(files)
            context.load_cert_chain(files.certificate, files.key)
            structlog.get_logger().info("certificate changed", path=str(files.certificate))
        except (InvalidArgument, OSError) as error:
            # Of two files one may be new and the other not yet: the next look sees both.
            seen = ()
            structlog.get_logger().error("changed certificate not used", reason=str(error))


def _loaded(files: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[files.minimum]
    # aiohttp's server speaks HTTP/1.1 alone.
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (OSError, ValueError) as error:
        # ssl.SSLError is an OSError, with a text that needs its context.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidArgument(f"cannot use certificate {files.certificate} with key {files.key}: {reason}") from error
    return context


def _no_password() -> str:
    """A daemon has no terminal to ask at, where OpenSSL would otherwise."""
    raise ValueError("the key is encrypted")


def _signature(files: Certificate) -> tuple[int, ...]:
    try:
        parts = [path.stat() for path in (files.certificate, files.key)]
    except OSError:
        return ()
    return tuple(number for part in parts for number in (part.st_mtime_ns, part.st_size, part.st_ino))
