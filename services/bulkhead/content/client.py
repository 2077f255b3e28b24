"""The client of a registry: resolve, pull and push, resumed and retried while there is progress.

    async with Registry("docker.io", mirrors=("http://127.0.0.1:5000",)) as registry:
        manifest = await registry.manifest(parse_reference("busybox:latest"))
        await registry.pull_blob("library/busybox", layer, store)

Mirrors are asked first and in order, by the same repository path; what a mirror lacks, the next has.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import aiohttp
from yarl import URL

from bulkhead import __version__
from bulkhead.content import hosts, media_types
from bulkhead.content.auth import Credentials
from bulkhead.content.blocking import Blocking
from bulkhead.content.endpoint import Answer, Endpoint
from bulkhead.content.manifests import MAX_MANIFEST, Descriptor, Index, Manifest, decode_object, parse_manifest
from bulkhead.content.remote_errors import RemoteRefusal, Unreachable, translated
from bulkhead.content.store import BlobStore, Stored, Writer
from bulkhead.errors import DataLoss, Forbidden, InvalidArgument, NotFound, Unauthorized, Unavailable
from bulkhead.model.digest import Digest
from bulkhead.model.reference import DEFAULT_TAG, Reference, is_tag

T = TypeVar("T")
Progress = Callable[[int], None]
PIECE = 1 << 20
MAX_TAGS = 100_000
# Reasons for which the next mirror is asked, and after the last the error told.
_NEXT_MIRROR = (NotFound, Unavailable, Unauthorized, Forbidden, DataLoss, InvalidArgument)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to insist. Attempts are counted anew whenever bytes arrived."""

    attempts: int = 5
    attempts_in_all: int = 100
    backoff: float = 0.25
    longest_backoff: float = 30.0
    connect: float = 15.0
    idle: float = 60.0


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


class Pushed(Enum):
    """How a blob came to be in a repository."""

    EXISTED = "exists"
    MOUNTED = "mounted"
    UPLOADED = "uploaded"


class Registry:
    """The registry of one image domain, with its mirrors. Enter it to use it."""

    def __init__(
        self,
        host: str,
        *,
        insecure: Collection[str] = (),
        auth: Credentials | None = None,
        mirrors: Sequence[str] = (),
        patience: Patience | None = None,
    ) -> None:
        """`host` is an image's domain; `mirrors` are URLs or host[:port]; `insecure` see hosts.is_insecure.

        Credentials go to the registry itself, never to a mirror.
        """
        self._host = host
        self._insecure = insecure
        self._auth = auth
        self._mirrors = mirrors
        self._patience = patience or Patience()
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
                session, hosts.api_host(self._host), insecure=self._insecure, credentials=self._auth
            )
            mirrors = [Endpoint(session, mirror, insecure=self._insecure) for mirror in self._mirrors]
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
        return await self._from_any(lambda endpoint: self._manifest(endpoint, reference), reference)

    async def tags(self, path: str) -> list[str]:
        """Every tag of a repository, in the registry's order (`docker pull --all-tags`)."""
        return await self._from_any(lambda endpoint: self._tags(endpoint, path))

    async def pull_blob(
        self, path: str, descriptor: Descriptor, store: BlobStore, progress: Progress | None = None
    ) -> Stored:
        """Bring a blob into `store`, going on where an earlier attempt stopped.

        `progress(bytes so far)`. Raises DataLoss for wrong bytes, NotFound, Unavailable, ResourceExhausted.
        """
        digest = descriptor.digest
        if not store.has(digest):
            async with store.resume(digest, descriptor.size) as writer:
                if not store.has(digest):
                    return await self._from_any(
                        lambda endpoint: self._insist(endpoint, path, descriptor, writer, progress or _silent)
                    )
        return Stored(digest=digest, size=store.size(digest), path=store.path(digest))

    async def has_blob(self, path: str, digest: Digest) -> bool:
        """Whether the repository has a blob."""
        try:
            async with self._upstream.request("HEAD", f"{path}/blobs/{digest}", scopes=_push(path)):
                return True
        except RemoteRefusal as error:
            if error.status == 404:
                return False
            raise translated(error) from error

    async def push_blob(
        self,
        path: str,
        digest: Digest,
        file: Path,
        *,
        mount_from: str | None = None,
        progress: Progress | None = None,
        blocking: Blocking | None = None,
    ) -> Pushed:
        """Make a blob part of a repository: as it is there, by mounting it from another, or by upload."""
        if await self.has_blob(path, digest):
            return Pushed.EXISTED
        own = blocking or Blocking(1)
        try:
            upload = _Upload(self._upstream, path, digest, file, own, progress or _silent, self._patience)
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
                scopes=_push(path),
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
        async with endpoint.request("HEAD", target, scopes=_pull(reference.path), headers=_ACCEPT) as answer:
            digest, size = answer.headers.get("Docker-Content-Digest"), answer.content_length
            kind = media_types.bare(answer.headers.get("Content-Type", ""))
        if digest is None or size is None:
            return (await self._manifest(endpoint, reference)).descriptor
        if reference.digest is not None and Digest.parse(digest) != reference.digest:
            raise DataLoss(f"cannot resolve {reference.familiar()}: the registry answers with {digest}")
        return Descriptor(media_type=kind, digest=Digest.parse(digest), size=size)

    async def _manifest(self, endpoint: Endpoint, reference: Reference) -> RemoteManifest:
        target = f"{reference.path}/manifests/{_target(reference)}"
        async with endpoint.request("GET", target, scopes=_pull(reference.path), headers=_ACCEPT) as answer:
            _check_encoding(answer)
            kind = answer.headers.get("Content-Type", "")
            body = await _bounded(answer, MAX_MANIFEST)
        algorithm = reference.digest.algorithm if reference.digest is not None else "sha256"
        digest = Digest.of(body, algorithm)
        if reference.digest is not None and digest != reference.digest:
            raise DataLoss(f"cannot pull {reference.familiar()}: the manifest's bytes have digest {digest}")
        document = parse_manifest(body, media_types.told(kind), digest)
        return RemoteManifest(digest=digest, media_type=document.media_type, body=body, document=document)

    async def _tags(self, endpoint: Endpoint, path: str) -> list[str]:
        found: list[str] = []
        target: str | URL | None = f"{path}/tags/list"
        while target is not None and len(found) < MAX_TAGS:
            async with endpoint.request("GET", target, scopes=_pull(path)) as answer:
                body = await _bounded(answer, MAX_MANIFEST)
                following = _NEXT.search(answer.headers.get("Link", ""))
                target = endpoint.resolve(answer, following[1]) if following is not None else None
            tags = decode_object(body, MAX_MANIFEST, "list of tags").get("tags") or []
            found += [tag for tag in tags if isinstance(tag, str) and is_tag(tag)]
        return found

    async def _insist(
        self, endpoint: Endpoint, path: str, descriptor: Descriptor, writer: Writer, progress: Progress
    ) -> Stored:
        tries = _Tries(self._patience)
        resumed = writer.offset > 0
        while True:
            start = writer.offset
            try:
                await self._receive(endpoint, path, descriptor, writer, progress)
                return await writer.commit()
            except DataLoss:
                # What an earlier attempt left may be what is wrong: once, from the beginning.
                if not resumed:
                    raise
                resumed = False
                await writer.rewind()
            except (RemoteRefusal, Unreachable) as error:
                resumed = resumed or writer.offset > 0
                await tries.after(error, progressed=writer.offset > start)

    async def _receive(
        self, endpoint: Endpoint, path: str, descriptor: Descriptor, writer: Writer, progress: Progress
    ) -> None:
        if writer.offset == descriptor.size:
            return
        headers = {"Range": f"bytes={writer.offset}-"} if writer.offset else {}
        target = f"{path}/blobs/{descriptor.digest}"
        expect = (200, 206, 416) if writer.offset else (200,)
        async with endpoint.request("GET", target, scopes=_pull(path), headers=headers, expect=expect) as answer:
            _check_encoding(answer)
            if answer.status == 416 or (answer.status == 206 and not _continues(answer, writer.offset)):
                raise DataLoss(f"cannot resume blob {descriptor.digest}: the registry has other bytes")
            if answer.status == 200 and writer.offset:
                await writer.rewind()
            while piece := await answer.content.readany():
                await writer.write(piece)
                progress(writer.offset)
        if writer.offset < descriptor.size:
            raise Unreachable(f'Get "{answer.url.with_query(None)}": unexpected EOF')


class _Tries:
    """Counts failures in a row and sleeps between them."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._in_a_row = 0
        self._in_all = 0

    async def after(self, error: RemoteRefusal | Unreachable, *, progressed: bool) -> None:
        """Wait for the next try, or raise `error` when it is no use."""
        if isinstance(error, RemoteRefusal) and not error.temporary:
            raise error
        self._in_a_row = 0 if progressed else self._in_a_row + 1
        self._in_all += 1
        if self._in_a_row >= self._patience.attempts or self._in_all >= self._patience.attempts_in_all:
            raise error
        await asyncio.sleep(self._pause(error))

    def _pause(self, error: RemoteRefusal | Unreachable) -> float:
        patience = self._patience
        told = error.retry_after if isinstance(error, RemoteRefusal) else None
        if told is not None:
            return min(told, patience.longest_backoff) + random.uniform(0, patience.backoff)
        return random.uniform(0.5, 1.0) * min(patience.backoff * 2.0**self._in_a_row, patience.longest_backoff)


class _Upload:
    """One blob on its way to a repository; a cut connection is continued where the registry says it is."""

    def __init__(
        self,
        endpoint: Endpoint,
        path: str,
        digest: Digest,
        file: Path,
        blocking: Blocking,
        progress: Progress,
        patience: Patience,
    ) -> None:
        self._endpoint = endpoint
        self._path = path
        self._digest = digest
        self._file = file
        self._size = file.stat().st_size
        self._blocking = blocking
        self._progress = progress
        self._tries = _Tries(patience)
        self._scopes = _push(path)

    async def run(self, mount_from: str | None) -> Pushed:
        location = await self._start(mount_from)
        if location is None:
            return Pushed.MOUNTED
        offset = 0
        while True:
            try:
                location = await self._send(location, offset)
                await self._finish(location)
                return Pushed.UPLOADED
            except (RemoteRefusal, Unreachable) as error:
                before = offset
                location, offset = await self._position(location, error, before)

    async def _start(self, mount_from: str | None) -> URL | None:
        scopes, query = self._scopes, ""
        if mount_from is not None:
            scopes = (*scopes, *_pull(mount_from))
            query = f"?mount={self._digest}&from={mount_from}"
        target = f"{self._path}/blobs/uploads/{query}"
        async with self._endpoint.request("POST", target, scopes=scopes, body=bytes, expect=(201, 202)) as answer:
            return None if answer.status == 201 else self._location(answer)

    async def _send(self, location: URL, offset: int) -> URL:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(self._size - offset)}
        if offset:
            headers["Content-Range"] = f"{offset}-{self._size - 1}"
        async with self._endpoint.request(
            "PATCH", location, scopes=self._scopes, headers=headers, body=lambda: self._body(offset), expect=(202,)
        ) as answer:
            return self._location(answer)

    async def _finish(self, location: URL) -> None:
        url = location.update_query(digest=str(self._digest))
        async with self._endpoint.request("PUT", url, scopes=self._scopes, body=bytes, expect=(201,)):
            return

    async def _position(self, location: URL, error: RemoteRefusal | Unreachable, before: int) -> tuple[URL, int]:
        """Where to go on after `error`; it is raised when that is of no use."""
        if isinstance(error, RemoteRefusal) and error.status == 404:
            await self._tries.after(Unreachable(str(error)), progressed=False)
            return await self._restart()
        await self._tries.after(error, progressed=False)
        try:
            async with self._endpoint.request("GET", location, scopes=self._scopes, expect=(204,)) as answer:
                last = answer.headers.get("Range", "0-0").rpartition("-")[2]
                offset = int(last) + 1 if last.isdigit() and int(last) > 0 else 0
                return self._location(answer, location), min(offset, self._size)
        except Unreachable:
            return location, before
        except RemoteRefusal:
            return await self._restart()

    async def _restart(self) -> tuple[URL, int]:
        location = await self._start(None)
        if location is None:
            raise Unavailable(f"cannot push blob {self._digest}: the registry did not start an upload")
        return location, 0

    def _location(self, answer: Answer, fallback: URL | None = None) -> URL:
        header = answer.headers.get("Location")
        if header is None:
            if fallback is not None:
                return fallback
            raise Unavailable(f"cannot push blob {self._digest}: the registry gave no upload location")
        return self._endpoint.resolve(answer, header)

    async def _body(self, offset: int) -> AsyncIterator[bytes]:
        with self._file.open("rb", buffering=0) as file:
            file.seek(offset)
            while piece := await self._blocking.run(file.read, PIECE):
                yield piece
                offset += len(piece)
                self._progress(offset)


_NEXT = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')
_ACCEPT = {"Accept": ", ".join(media_types.ACCEPTED)}


def _target(reference: Reference) -> str:
    return str(reference.digest) if reference.digest is not None else reference.tag or DEFAULT_TAG


def _pull(path: str) -> tuple[str, ...]:
    return (f"repository:{path}:pull",)


def _push(path: str) -> tuple[str, ...]:
    return (f"repository:{path}:pull,push",)


def _silent(_: int) -> None:
    return None


def _check_encoding(answer: Answer) -> None:
    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise InvalidArgument(f"cannot use answer of registry: content encoding {encoding[:32]!r} was not asked for")


def _continues(answer: Answer, offset: int) -> bool:
    return answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


async def _bounded(answer: Answer, limit: int) -> bytes:
    body = bytearray()
    while piece := await answer.content.readany():
        body += piece
        if len(body) > limit:
            raise InvalidArgument(f"cannot use manifest: it is larger than {limit} bytes")
    return bytes(body)
