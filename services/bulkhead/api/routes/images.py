"""Images: pull, push, look, tag, remove, save, load."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import web

from bulkhead.api import answers
from bulkhead.api.call import Call
from bulkhead.api.ports.files import Filesystems, Import
from bulkhead.api.ports.images import Images, Progress
from bulkhead.api.schema import images as schema
from bulkhead.api.schema.deltas import fitted
from bulkhead.api.schema.validation import check_platform
from bulkhead.api.streams import begin, lines
from bulkhead.api.versions import Version, readable
from bulkhead.errors import Internal, InvalidArgument, Unauthorized
from bulkhead.model.filters import boolean
from bulkhead.model.reference import parse_reference, parse_tag_target

LIST_FILTERS = frozenset(("before", "dangling", "label", "label!", "reference", "since", "until"))
PRUNE_FILTERS = frozenset(("dangling", "label", "label!", "until"))
WITH_MANIFESTS = Version(1, 47)
_UPLOAD_BLOCK = 256 << 10


class ImageRoutes:
    def __init__(self, images: Images, filesystems: Filesystems) -> None:
        self._images = images
        self._filesystems = filesystems

    async def create(self, call: Call) -> web.StreamResponse:
        if call.text("fromSrc"):
            return await self._import(call)
        name, tag = call.text("fromImage"), call.text("tag")
        if not name:
            raise InvalidArgument("invalid reference format: no image is named")
        check_platform(call.text("platform"))
        reference = joined(name, tag)
        parsed = parse_reference(reference)
        pulling = self._images.pull(
            reference,
            platform=call.text("platform"),
            auth=schema.auth_of(call),
            all_tags=parsed.tag is None and parsed.digest is None,
        )
        return await _progress(call, pulling)

    async def _import(self, call: Call) -> web.StreamResponse:
        repository = call.text("repo")
        check_platform(call.text("platform"))
        wanted = Import(
            source=call.text("fromSrc"),
            name=parse_tag_target(repository, call.text("tag") or None).familiar() if repository else "",
            message=call.text("message"),
            changes=tuple(call.texts("changes")),
            platform=call.text("platform"),
        )
        return await _progress(call, self._filesystems.import_image(wanted, call.blocks(_UPLOAD_BLOCK)))

    async def push(self, call: Call) -> web.StreamResponse:
        reference = joined(call["name"], call.text("tag"))
        parsed = parse_reference(reference)
        if parsed.digest is not None:
            raise InvalidArgument("cannot push a digest reference")
        if parsed.tag is not None:
            await self._check_platform(call, reference)
        return await _progress(
            call, self._images.push(reference, auth=schema.auth_of(call), all_tags=parsed.tag is None)
        )

    async def index(self, call: Call) -> web.StreamResponse:
        filters = call.filters(LIST_FILTERS)
        boolean(filters, "dangling")
        shared, with_manifests = call.flag("shared-size"), _asks_for_manifests(call)
        found = await self._images.list(all=call.flag("all"), filters=filters, container_ids=with_manifests)
        shown = [schema.listed(each, shared=shared) for each in found]
        if with_manifests:
            for image, each in zip(shown, found, strict=True):
                image["Manifests"] = schema.manifests(each.presence, each.size)
                image["Descriptor"] = schema.descriptor(each.presence)
        return answers.json([fitted("listed image", image, call.version) for image in shown])

    async def inspect(self, call: Call) -> web.StreamResponse:
        wanted = schema.platform_text(call.text("platform"))
        if wanted and call.flag("manifests"):
            raise InvalidArgument("conflicting options: manifests and platform options cannot both be set")
        with_manifests = _asks_for_manifests(call)
        found = await self._images.inspect(call["name"], container_ids=with_manifests)
        schema.check_variant(call["name"], found.presence, wanted)
        shown = schema.inspected(found)
        if with_manifests:
            shown["Manifests"] = schema.manifests(found.presence, found.size)
        version = readable(call.version, call.request.headers.get("User-Agent", ""))
        return answers.json(fitted("image", shown, version))

    async def _check_platform(self, call: Call, *refs: str) -> None:
        """Raise NotFound for an image that is for another platform than the request's."""
        wanted = schema.platform_text(call.text("platform"))
        for ref in refs if wanted else ():
            schema.check_variant(ref, (await self._images.inspect(ref)).presence, wanted)

    async def history(self, call: Call) -> web.StreamResponse:
        await self._check_platform(call, call["name"])
        return answers.json(schema.history(await self._images.history(call["name"])))

    async def tag(self, call: Call) -> web.StreamResponse:
        target = parse_tag_target(call.text("repo"), call.text("tag") or None)
        await self._images.tag(call["name"], target.familiar())
        return answers.empty(201)

    async def remove(self, call: Call) -> web.StreamResponse:
        for text in call.texts("platforms"):
            presence = (await self._images.inspect(call["name"])).presence
            schema.check_variant(call["name"], presence, schema.platform_text(text))
        removed = await self._images.remove(call["name"], force=call.flag("force"), no_prune=call.flag("noprune"))
        return answers.json(schema.removed(removed))

    async def prune(self, call: Call) -> web.StreamResponse:
        filters = call.filters(PRUNE_FILTERS)
        boolean(filters, "dangling")
        removed, freed = await self._images.prune(filters)
        return answers.json({"ImagesDeleted": schema.removed(removed) or None, "SpaceReclaimed": freed})

    async def load(self, call: Call) -> web.StreamResponse:
        loading = self._images.load(
            call.blocks(_UPLOAD_BLOCK),
            quiet=call.flag("quiet", default=True),
            platform=schema.platform_text(call.text("platform")),
        )
        # Whatever is wrong with the archive is told in the stream: docker-py looks for it there.
        return await _progress(call, loading, told_in_stream=True)

    async def save(self, call: Call) -> web.StreamResponse:
        return await self._save(call, [call["name"]])

    async def save_several(self, call: Call) -> web.StreamResponse:
        names = [name for text in call.texts("names") for name in text.split(",") if name]
        if not names:
            raise InvalidArgument("no images are named")
        return await self._save(call, names)

    async def _save(self, call: Call, names: list[str]) -> web.StreamResponse:
        await self._check_platform(call, *names)
        async with contextlib.aclosing(self._images.save(names)) as parts:
            # The first part is awaited before the headers: an unknown image has its own status.
            first = await anext(parts, b"")
            response = await begin(call, "application/x-tar")
            await response.write(first)
            async for part in parts:
                await response.write(part)
        return response


def _asks_for_manifests(call: Call) -> bool:
    return call.flag("manifests") and call.version >= WITH_MANIFESTS


def joined(name: str, tag: str) -> str:
    """The reference of `fromImage` and `tag`; the tag may be a digest, and wins over a tag in the name."""
    if not tag:
        return name
    if ":" in tag:
        return f"{name}@{tag}"
    parsed = parse_reference(name)
    return f"{parsed.familiar_name}:{tag}"


async def _progress(
    call: Call, progress: AsyncGenerator[Progress], *, told_in_stream: bool = False
) -> web.StreamResponse:
    async with contextlib.aclosing(_shown(progress)) as shown:
        return await lines(call, shown, told_in_stream=told_in_stream)


async def _shown(progress: AsyncGenerator[Progress]) -> AsyncGenerator[dict[str, Any]]:
    async with contextlib.aclosing(progress) as items:
        try:
            async for line in items:
                yield schema.progress(line)
        except Unauthorized as error:
            # A registry's 401 is dockerd's 500: to one of our own the CLI would ask for a name and password.
            raise Internal(str(error)) from error
