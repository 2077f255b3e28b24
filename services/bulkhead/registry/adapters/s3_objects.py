"""Objects in a bucket of an S3 API (optional extra `s3`).

Needed of the store: multipart uploads, ranges, a listing that shows what was written. Everything lies below
one prefix, which belongs to this registry alone. Parts of uploads that died are aborted by `sweep`; a
lifecycle rule of the bucket may do the same, but must never expire objects.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from aiohttp import ClientConnectionError, ClientPayloadError
from botocore.exceptions import BotoCoreError, ClientError

from bulkhead.content.blocking import Blocking
from bulkhead.content.durable import disk_errors
from bulkhead.errors import BulkheadError, DataLoss, InvalidArgument, NotFound, Unavailable

# S3's own limits: parts of at least 5 MiB, at most 10,000 of them.
PART = 8 << 20
MAX_PARTS = 10_000
# Parts of one blob that are on their way at once.
PARALLEL = 4
PIECE = 1 << 20
# A transfer that breaks off goes on where it broke, so often.
ATTEMPTS = 3
_ABSENT = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchUpload"})
_REFUSED = frozenset({"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Where the objects are, and how to get in; empty keys leave that to the environment (AWS_...)."""

    name: str
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    access_key: str = ""
    secret_key: str = ""


class S3Content:
    """An object that is read by ranges."""

    def __init__(self, objects: S3Objects, key: str) -> None:
        self._objects = objects
        self._key = key

    @property
    def file(self) -> None:
        return None

    async def pieces(self, start: int, length: int) -> AsyncIterator[bytes]:
        offset, end, attempts = start, start + length, 0
        while offset < end:
            try:
                async for data in self._objects.stream(self._key, offset, end):
                    yield data
                    offset += len(data)
                if offset < end:
                    raise Unavailable(f"cannot read object {self._key}: it ended early")
            except Unavailable:
                attempts += 1
                if attempts >= ATTEMPTS:
                    raise

    async def close(self) -> None:
        return None


class S3Objects:
    """Implements ports.Objects."""

    def __init__(self, bucket: Bucket, blocking: Blocking) -> None:
        self._bucket = bucket
        self._blocking = blocking
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def open(self) -> None:
        where = self._bucket
        config = AioConfig(
            s3={"addressing_style": "path" if where.endpoint else "auto"},
            max_pool_connections=64,
            retries={"mode": "standard", "max_attempts": 4},
            # Other makers' stores know neither the new checksums nor their trailers; we verify digests ourselves.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with _translated(f"use bucket {where.name}"):
            client = get_session().create_client(
                "s3",
                region_name=where.region,
                endpoint_url=where.endpoint or None,
                aws_access_key_id=where.access_key or None,
                aws_secret_access_key=where.secret_key or None,
                config=config,
            )
            self._client = await self._stack.enter_async_context(client)
            await self._client.head_bucket(Bucket=where.name)

    async def close(self) -> None:
        await self._stack.aclose()

    async def adopt(self, path: Path, key: str) -> None:
        with disk_errors(f"read {path.name}"):
            fd = await self._blocking.run(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(fd).st_size
                if size <= PART:
                    await self.put(key, await self._blocking.run(os.pread, fd, size, 0))
                else:
                    await self._put_parts(key, fd, size)
            finally:
                os.close(fd)

    async def put(self, key: str, data: bytes) -> None:
        with _translated(f"store object {key}"):
            await self._client.put_object(**self._at(key), Body=data)

    async def get(self, key: str, limit: int) -> bytes:
        with _translated(f"read object {key}"):
            answer = await self._client.get_object(**self._at(key))
            async with answer["Body"] as body:
                if answer["ContentLength"] > limit:
                    raise DataLoss(f"cannot read object {key}: larger than {limit} bytes")
                data: bytes = await body.read()
                return data

    async def read(self, key: str) -> S3Content:
        if await self.size(key) is None:
            raise NotFound(f"cannot read object {key}: there is none")
        return S3Content(self, key)

    async def stream(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes [start, end) as they come; fewer when the transfer breaks off."""
        with _translated(f"read object {key}"):
            answer = await self._client.get_object(**self._at(key), Range=f"bytes={start}-{end - 1}")
            async with answer["Body"] as body:
                while data := await body.read(PIECE):
                    yield data

    async def size(self, key: str) -> int | None:
        try:
            with _translated(f"look up object {key}"):
                length: int = (await self._client.head_object(**self._at(key)))["ContentLength"]
                return length
        except NotFound:
            return None

    async def delete(self, key: str) -> None:
        with suppress(NotFound), _translated(f"delete object {key}"):
            await self._client.delete_object(**self._at(key))

    async def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        with _translated(f"list objects {prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket.name, Prefix=self._bucket.prefix + prefix
            )
            async for page in pages:
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(self._bucket.prefix), entry["Size"]

    async def sweep(self) -> None:
        with _translated("sweep uploads"):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket.name, Prefix=self._bucket.prefix
            )
            async for page in pages:
                for upload in page.get("Uploads", ()):
                    await self._abort(upload["Key"].removeprefix(self._bucket.prefix), upload["UploadId"])

    async def _put_parts(self, key: str, fd: int, size: int) -> None:
        with _translated(f"store object {key}"):
            upload = (await self._client.create_multipart_upload(**self._at(key)))["UploadId"]
        try:
            parts = await self._send_parts(key, upload, fd, size)
            with _translated(f"store object {key}"):
                await self._client.complete_multipart_upload(
                    **self._at(key), UploadId=upload, MultipartUpload={"Parts": parts}
                )
        except BaseException:
            with suppress(BulkheadError):
                await asyncio.shield(self._abort(key, upload))
            raise

    async def _send_parts(self, key: str, upload: str, fd: int, size: int) -> Sequence[dict[str, Any]]:
        length = max(PART, -(-size // MAX_PARTS))
        turns = asyncio.Semaphore(PARALLEL)

        async def send(number: int) -> dict[str, Any]:
            async with turns:
                data = await self._blocking.run(os.pread, fd, length, number * length)
                with _translated(f"store object {key}"):
                    answer = await self._client.upload_part(
                        **self._at(key), UploadId=upload, PartNumber=number + 1, Body=data
                    )
                return {"PartNumber": number + 1, "ETag": answer["ETag"]}

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(send(number)) for number in range(-(-size // length))]
        except ExceptionGroup as failures:
            # The first says what went wrong; the others were cancelled or say the same.
            raise failures.exceptions[0] from failures
        return [task.result() for task in tasks]

    async def _abort(self, key: str, upload: str) -> None:
        with suppress(NotFound), _translated(f"abort upload of {key}"):
            await self._client.abort_multipart_upload(**self._at(key), UploadId=upload)

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket.name, "Key": self._bucket.prefix + key}


@contextmanager
def _translated(action: str) -> Iterator[None]:
    """The errors of the S3 client in our vocabulary."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _ABSENT:
            raise NotFound(f"cannot {action}: there is none") from error
        if code in _REFUSED:
            raise InvalidArgument(f"cannot {action}: {error}") from error
        raise Unavailable(f"cannot {action}: {error}") from error
    except (BotoCoreError, ClientConnectionError, ClientPayloadError, OSError, TimeoutError) as error:
        raise Unavailable(f"cannot {action}: {str(error) or type(error).__name__}") from error
