"""Import: a root file system in a tar, from the client or from a URL, becomes an image of one layer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from yarl import URL

from bulkhead import __version__
from bulkhead.content import trust
from bulkhead.content.blocking import Blocking
from bulkhead.content.inflate import Limits, plain
from bulkhead.content.later import aiohttp
from bulkhead.content.platforms import HOST, parse_platform
from bulkhead.content.remote_errors import unreachable
from bulkhead.content.staging import Pulled
from bulkhead.errors import InvalidArgument, Unavailable
from bulkhead.manager.images.instructions import apply_changes
from bulkhead.manager.images.layering import Layering, MadeLayer
from bulkhead.manager.images.making import Maker, Recipe
from bulkhead.manager.images.ports import Publish
from bulkhead.manager.images.progress import Feed
from bulkhead.model.image import ImageConfig
from bulkhead.model.reference import Reference

_CONNECT_SECONDS, _IDLE_SECONDS = 20.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What to make; `source` is `-` for what the client sends, else a URL."""

    source: str
    name: Reference | None = None
    message: str = ""
    changes: Sequence[str] = ()
    platform: str = ""


class Importer:
    """Imports root file systems."""

    def __init__(self, maker: Maker, publish: Publish) -> None:
        self._maker = maker
        self._publish = publish

    async def run(self, request: ImportRequest, body: AsyncIterator[bytes], feed: Feed) -> None:
        """Make the image and tell its id. Raises InvalidArgument, DataLoss, Unavailable, ResourceExhausted."""
        config = apply_changes(ImageConfig(), request.changes)
        platform = _platform(request.platform)
        source, shown = (body, "-") if request.source == "-" else _remote(request.source, feed)
        comment = request.message or f"Imported from {shown}"
        async with self._maker.layering() as layering:
            layer = await _made_layer(source, layering)
            recipe = Recipe(config=config, layer=layer, comment=comment, name=request.name, platform=platform)
            image = await self._maker.make(recipe)
        feed.say(str(image.id))
        await self._publish("image", "import", str(image.id), {**image.config.labels, "name": str(image.id)})


async def _made_layer(stream: AsyncIterator[bytes], layering: Layering) -> MadeLayer:
    pulled = Pulled(stream, asyncio.get_running_loop())
    # A thread of its own: it waits for the peer, and the store's few threads must not.
    thread = Blocking(1)
    try:
        return await layering.make(pulled.read, plain, Limits(), thread, pulled.abort)
    finally:
        thread.close()


def _platform(text: str) -> dict[str, str]:
    if not text:
        return {}
    told = parse_platform(text)
    if told.os != HOST.os:
        raise InvalidArgument("operating system is not supported")
    found = {"os": told.os, "architecture": told.architecture, "variant": told.variant}
    return {key: value for key, value in found.items() if value}


def _remote(source: str, feed: Feed) -> tuple[AsyncGenerator[bytes, None], str]:
    try:
        url = URL(source if "://" in source else f"http://{source}")
    except ValueError as error:
        raise InvalidArgument(f"invalid source of an import: {source}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidArgument(f"unsupported protocol scheme of an import: {source}")
    return _download(url, feed), str(url.with_user(None))


async def _download(url: URL, feed: Feed) -> AsyncGenerator[bytes, None]:
    shown = url.with_user(None)
    feed.say(f"Downloading from {shown}")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_IDLE_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.get(url, headers={"User-Agent": f"bulkhead/{__version__}"}, ssl=trust.system()) as answer,
        ):
            if answer.status >= 400:
                raise Unavailable(f"Got HTTP status code >= 400: {answer.status} {answer.reason}")
            done = 0
            async for piece in answer.content.iter_chunked(1 << 20):
                done += len(piece)
                feed.count("Importing", "", done, answer.content_length or 0)
                yield piece
    except (aiohttp.ClientError, TimeoutError) as error:
        raise unreachable(error, "get", str(shown)) from error
