"""The error codes of the OCI distribution specification, and how each refusal looks on the wire."""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec
from aiohttp import web

from bulkhead.errors import BulkheadError, ResourceExhausted, Unavailable

# How long a client should wait before it tries a full or busy registry again, in seconds.
RETRY_AFTER = 10
# Docker's clients since 2014 take a server without this header for one of the old protocol.
API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}


class Code(Enum):
    """(HTTP status, text when there is nothing better to say)."""

    BLOB_TOO_LARGE = (413, "blob too large")
    BLOB_UNKNOWN = (404, "blob unknown to registry")
    BLOB_UPLOAD_INVALID = (404, "blob upload invalid")
    BLOB_UPLOAD_UNKNOWN = (404, "blob upload unknown to registry")
    DENIED = (403, "requested access to the resource is denied")
    DIGEST_INVALID = (400, "provided digest did not match uploaded content")
    MANIFEST_BLOB_UNKNOWN = (404, "manifest references a manifest or blob unknown to registry")
    MANIFEST_INVALID = (400, "manifest invalid")
    MANIFEST_TOO_LARGE = (413, "manifest too large")
    MANIFEST_UNKNOWN = (404, "manifest unknown")
    NAME_INVALID = (400, "invalid repository name")
    NAME_UNKNOWN = (404, "repository name not known to registry")
    PAGINATION_NUMBER_INVALID = (400, "invalid number of results requested")
    RANGE_INVALID = (416, "invalid content range")
    SIZE_INVALID = (400, "provided length did not match content length")
    TAG_INVALID = (400, "manifest tag did not match URI")
    TOOMANYREQUESTS = (429, "too many requests")
    UNAUTHORIZED = (401, "authentication required")
    UNKNOWN = (500, "unknown error")
    UNSUPPORTED = (405, "the operation is unsupported")
    UNAVAILABLE = (503, "service unavailable")

    @property
    def status(self) -> int:
        return self.value[0]

    @property
    def text(self) -> str:
        return self.value[1]


# Names on the wire where they differ from ours: the specification has no code for what is too large.
_WIRE_NAMES = {Code.MANIFEST_TOO_LARGE: "MANIFEST_INVALID", Code.BLOB_TOO_LARGE: "SIZE_INVALID"}


class Refusal(BulkheadError):
    """A request that the registry answers with one of the specification's codes."""

    def __init__(
        self, code: Code, message: str = "", *, detail: Any = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message or code.text)
        self.code = code
        self.detail = detail
        self.headers = headers or {}


def response(error: BulkheadError) -> web.Response:
    """The HTTP answer to an error of ours."""
    refusal = error if isinstance(error, Refusal) else _refusal(error)
    entry: dict[str, Any] = {
        "code": _WIRE_NAMES.get(refusal.code, refusal.code.name),
        "message": str(refusal),
        "detail": refusal.detail,
    }
    return web.Response(
        status=refusal.code.status,
        body=msgspec.json.encode({"errors": [entry]}),
        content_type="application/json",
        headers=refusal.headers,
    )


def _refusal(error: BulkheadError) -> Refusal:
    if isinstance(error, ResourceExhausted | Unavailable):
        # Clients try again after 5xx; none of them knows 507.
        return Refusal(Code.UNAVAILABLE, str(error), headers={"Retry-After": str(RETRY_AFTER)})
    return Refusal(Code.UNKNOWN, str(error))
