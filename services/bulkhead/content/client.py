"""The client of a registry: resolve, pull and push, resumed and retried while there is progress.

    async with Registry("docker.io", mirrors=("http://127.0.0.1:5000",)) as registry:
        manifest = await registry.manifest(parse_reference("busybox:latest"))
        await registry.pull_blob("library/busybox", layer, store)

Mirrors are asked first and in order, by the same repository path; what a mirror lacks, the next has.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from yarl import URL

from bulkhead import __version__
from bulkhead.content import hosts, media_types
from bulkhead.content.arriving import Arriving
from bulkhead.content.auth import Credentials
from bulkhead.content.blocking import Blocking
from bulkhead.content.download import Download, Spans, check_encoding
from bulkhead.content.endpoint import Answer, Endpoint, pull_scope, push_scope
from bulkhead.content.later import aiohttp
from bulkhead.content.manifests import MAX_MANIFEST, Descriptor, Index, Manifest, decode_object, parse_manifest
from bulkhead.content.remote_errors import RemoteRefusal, translated
from bulkhead.content.retries import Patience, Tries, Waiting
from bulkhead.content.store import BlobStore, Stored
from bulkhead.content.transport import Transport
from bulkhead.content.upload import PIECE, Progress, Pushed, Upload
from bulkhead.errors import DataLoss, Forbidden, InvalidArgument, NotFound, Unauthorized, Unavailable
from bulkhead.model.digest import Digest
from bulkhead.model.reference import DEFAULT_TAG, Reference, is_repository, is_tag

__all__ = ["Patience", "Pushed", "Registry", "RemoteManifest"]

T = TypeVar("T")
MAX_LISTED = 100_000
# Reasons for which the next mirror is asked, and after the last the error told.
_NEXT_MIRROR = (NotFound, Unavailable, Unauthorized, Forbidden, DataLoss, InvalidArgument)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteManifest:
    """A manifest's bytes and what they mean."""

    digest: Digest
    media_type: str
    body: bytes
    document: Manifest | Index

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(media_type=self.media_type, digest=self.digest, size=len(self.body))


class Registry:
    """The registry of one image domain, with its mirrors. Enter it to use it."""

    def __init__(
        self,
        host: str,
        *,
        transport: Transport | None = None,
        auth: Credentials | None = None,
        mirrors: Sequence[str] = (),
        patience: Patience | None = None,
        spans: Spans | None = None,
    ) -> None:
        """`host` is an image's domain; `mirrors` are URLs or host[:port].

        Credentials go to the registry itself, never to a mirror.
        """
        self._host = host
        self._transport = transport or Transport()
        self._auth = auth
        self._mirrors = mirrors
        self._patience = patience or Patience()
        self._spans = spans or Spans()
        self._session: aiohttp.ClientSession | None = None
        self._upstream: Endpoint
        self._endpoints: list[Endpoint] = []

    async def __aenter__(self) -> Registry:
        patience = self._patience
        session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=patience.connect, sock_read=patience.idle),
            headers={"User-Agent": f"bulkhead/{__version__}", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            # What is hashed are the bytes as they come; a Content-Encoding is refused.
            auto_decompress=False,
            read_bufsize=PIECE,
        )
        try:
            self._upstream = Endpoint(
                session, hosts.api_host(self._host), transport=self._transport, credentials=self._auth
            )
            mirrors = [Endpoint(session, mirror, transport=self._transport) for mirror in self._mirrors]
        except BaseException:
            await session.close()
            raise
        self._session = session
        self._endpoints = [*mirrors, self._upstream]
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def resolve(self, reference: Reference) -> Descriptor:
        """What a reference names now, without its bytes. Raises NotFound, Unauthorized, Unavailable."""
        return await self._from_any(lambda endpoint: self._resolve(endpoint, reference), reference)

    async def manifest(self, reference: Reference) -> RemoteManifest:
        """A manifest or index, verified and parsed. Raises NotFound, DataLoss, InvalidArgument, …"""
        return await self._from_any(lambda endpoint: self._patiently(endpoint, reference), reference)

    async def tags(self, path: str) -> list[str]:
        """Every tag of a repository, in the registry's order (`docker pull --all-tags`)."""
        return await self._from_any(lambda endpoint: self._tags(endpoint, path))

    async def login(self) -> str:
        """Have our credentials accepted; an identity token in their place, mostly empty.

        Raises Unauthorized, Unavailable.
        """
        try:
            async with self._upstream.request("GET", "", scopes=()):
                return self._upstream.identity_token
        except RemoteRefusal as error:
            if error.status == 401:
                text = f"login attempt to {self._upstream.url} failed with status: 401 Unauthorized"
                raise Unauthorized(text) from error
            raise translated(error) from error

    async def catalog(self) -> list[str]:
        """Every repository that we may see, as far as the registry lists them (`docker search`)."""
        return await self._from_any(self._catalog)

    async def pull_blob(
        self,
        path: str,
        descriptor: Descriptor,
        store: BlobStore,
        progress: Progress | None = None,
        waiting: Waiting | None = None,
        arriving: Arriving | None = None,
    ) -> Stored:
        """Bring a blob into `store`, going on where an earlier attempt stopped.

        `progress(bytes so far)`, `waiting(seconds until the next try)`. Raises DataLoss for wrong bytes, NotFound,
        Unavailable, ResourceExhausted.
        """
        digest = descriptor.digest
        if not store.has(digest):
            async with store.resume(digest, descriptor.size, arriving) as writer:
                if not store.has(digest):
                    return await self._from_any(
                        lambda endpoint: Download(
                            endpoint,
                            path,
                            descriptor,
                            writer,
                            progress=progress or _silent,
                            waiting=waiting or _silent,
                            patience=self._patience,
                            spans=self._spans,
                        ).run()
                    )
        return Stored(digest=digest, size=store.size(digest), path=store.path(digest))

    async def has_blob(self, path: str, digest: Digest) -> bool:
        """Whether the repository has a blob."""
        try:
            async with self._upstream.request("HEAD", f"{path}/blobs/{digest}", scopes=push_scope(path)):
                return True
        except RemoteRefusal as error:
            if error.status == 404:
                return False
            raise translated(error) from error

    async def blob_size(self, path: str, digest: Digest) -> int | None:
        """Bytes of a blob that the repository has; None when it has not, or does not say."""
        try:
            async with self._upstream.request("HEAD", f"{path}/blobs/{digest}", scopes=pull_scope(path)) as answer:
                return answer.content_length
        except RemoteRefusal as error:
            if error.status == 404:
                return None
            raise translated(error) from error

    async def referrers(self, path: str, digest: Digest) -> bytes:
        """The index of what refers to a digest, unread. Raises NotFound where the registry knows no referrers."""
        try:
            async with self._upstream.request("GET", f"{path}/referrers/{digest}", scopes=pull_scope(path)) as answer:
                check_encoding(answer)
                return await _bounded(answer, MAX_MANIFEST)
        except RemoteRefusal as error:
            raise translated(error) from error

    async def push_blob(
        self,
        path: str,
        digest: Digest,
        file: Path,
        *,
        mount_from: str | None = None,
        progress: Progress | None = None,
        waiting: Waiting | None = None,
        blocking: Blocking | None = None,
    ) -> Pushed:
        """Make a blob part of a repository: as it is there, by mounting it from another, or by upload."""
        if await self.has_blob(path, digest):
            return Pushed.EXISTED
        own = blocking or Blocking(1)
        try:
            upload = Upload(
                self._upstream, path, digest, file, own, progress or _silent, self._patience, waiting or _silent
            )
            return await upload.run(mount_from)
        except RemoteRefusal as error:
            raise translated(error) from error
        finally:
            if blocking is None:
                own.close()

    async def push_manifest(self, path: str, reference: str, body: bytes, media_type: str) -> Digest:
        """Store a manifest under a tag or its digest; its digest."""
        headers = {"Content-Type": media_type}
        try:
            async with self._upstream.request(
                "PUT",
                f"{path}/manifests/{reference}",
                scopes=push_scope(path),
                headers=headers,
                body=lambda: body,
                expect=(201,),
            ):
                return Digest.of(body)
        except RemoteRefusal as error:
            raise translated(error) from error

    async def _from_any(self, ask: Callable[[Endpoint], Awaitable[T]], name: Reference | None = None) -> T:
        """Ask the mirrors, then the registry; its answer is told when none had one."""
        for endpoint in list(self._endpoints):
            try:
                answer = await ask(endpoint)
            except (RemoteRefusal, *_NEXT_MIRROR) as error:
                told = translated(error, name) if isinstance(error, RemoteRefusal) else error
                if endpoint is self._endpoints[-1] or not isinstance(told, _NEXT_MIRROR):
                    raise told from error
            else:
                return answer
        raise NotFound(f"no registry for {self._host}")

    async def _resolve(self, endpoint: Endpoint, reference: Reference) -> Descriptor:
        target = f"{reference.path}/manifests/{_target(reference)}"
        async with endpoint.request("HEAD", target, scopes=pull_scope(reference.path), headers=_ACCEPT) as answer:
            digest, size = answer.headers.get("Docker-Content-Digest"), answer.content_length
            kind = media_types.bare(answer.headers.get("Content-Type", ""))
        if digest is None or size is None:
            return (await self._manifest(endpoint, reference)).descriptor
        if reference.digest is not None and Digest.parse(digest) != reference.digest:
            raise DataLoss(f"cannot resolve {reference.familiar()}: the registry answers with {digest}")
        return Descriptor(media_type=kind, digest=Digest.parse(digest), size=size)

    async def _patiently(self, endpoint: Endpoint, reference: Reference) -> RemoteManifest:
        """A manifest from a registry that may say when it wants to be asked again."""
        tries = Tries(self._patience)
        while True:
            try:
                return await self._manifest(endpoint, reference)
            except RemoteRefusal as error:
                if error.retry_after is None:
                    raise
                await tries.after(error, progressed=False)

    async def _manifest(self, endpoint: Endpoint, reference: Reference) -> RemoteManifest:
        target = f"{reference.path}/manifests/{_target(reference)}"
        async with endpoint.request("GET", target, scopes=pull_scope(reference.path), headers=_ACCEPT) as answer:
            check_encoding(answer)
            kind = answer.headers.get("Content-Type", "")
            body = await _bounded(answer, MAX_MANIFEST)
        algorithm = reference.digest.algorithm if reference.digest is not None else "sha256"
        digest = Digest.of(body, algorithm)
        if reference.digest is not None and digest != reference.digest:
            raise DataLoss(f"cannot pull {reference.familiar()}: the manifest's bytes have digest {digest}")
        document = parse_manifest(body, media_types.told(kind), digest)
        return RemoteManifest(digest=digest, media_type=document.media_type, body=body, document=document)

    async def _tags(self, endpoint: Endpoint, path: str) -> list[str]:
        return [tag for tag in await _list(endpoint, f"{path}/tags/list", pull_scope(path), "tags") if is_tag(tag)]

    async def _catalog(self, endpoint: Endpoint) -> list[str]:
        return [name for name in await _list(endpoint, "_catalog", _CATALOG, "repositories") if is_repository(name)]


_CATALOG = ("registry:catalog:*",)
_NEXT = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')
_ACCEPT = {"Accept": ", ".join(media_types.ACCEPTED)}


async def _list(endpoint: Endpoint, first: str, scopes: tuple[str, ...], key: str) -> list[str]:
    """A list in pages (OCI distribution-spec, "Listing Tags")."""
    found: list[str] = []
    target: str | URL | None = first
    while target is not None and len(found) < MAX_LISTED:
        async with endpoint.request("GET", target, scopes=scopes) as answer:
            body = await _bounded(answer, MAX_MANIFEST)
            following = _NEXT.search(answer.headers.get("Link", ""))
            target = endpoint.resolve(answer, following[1]) if following is not None else None
        listed = decode_object(body, MAX_MANIFEST, f"list of {key}").get(key) or []
        found += [each for each in listed if isinstance(each, str)]
    return found


def _target(reference: Reference) -> str:
    return str(reference.digest) if reference.digest is not None else reference.tag or DEFAULT_TAG


def _silent(_: int) -> None:
    return None


async def _bounded(answer: Answer, limit: int) -> bytes:
    body = bytearray()
    while piece := await answer.content.readany():
        body += piece
        if len(body) > limit:
            raise InvalidArgument(f"cannot use manifest: it is larger than {limit} bytes")
    return bytes(body)
