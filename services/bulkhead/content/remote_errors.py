"""What registries answer when they refuse, in our vocabulary and with Docker's texts."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import msgspec

from bulkhead.content.later import aiohttp
from bulkhead.errors import (
    BulkheadError,
    Forbidden,
    InvalidArgument,
    NotFound,
    Unauthorized,
    Unavailable,
)
from bulkhead.model.reference import Reference

# Error bodies are short; a registry that sends more is not read further.
MAX_ERROR_BODY = 64 << 10
_DENIED_TEXT = "requested access to the resource is denied"
_UNAUTHORIZED_TEXT = "authentication required"


class RemoteRefusal(BulkheadError):
    """A registry's answer that is an error; callers turn it into ours by `translated`."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(f"{code.lower().replace('_', ' ')}: {message}" if code else message)
        self.status = status
        self.code = code
        self.retry_after = retry_after

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in (408, 425, 429) or self.status >= 500


class Unreachable(Unavailable):
    """The registry could not be asked, or the connection to it broke."""


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct):
    errors: list[_Error] = []


def refusal(url: str, method: str, status: int, headers: Mapping[str, str], body: bytes) -> RemoteRefusal:
    """The refusal that an HTTP answer is."""
    retry_after = _seconds(headers.get("Retry-After", ""))
    scope_error = _bearer_error(headers.get("WWW-Authenticate", "")) if status == 401 else None
    if scope_error is not None:
        return RemoteRefusal(status, *scope_error)
    try:
        first = msgspec.json.decode(body[:MAX_ERROR_BODY], type=_Errors).errors[0]
        code, message = first.code[:100], first.message[:1000] or first.code[:100].lower().replace("_", " ")
    except (msgspec.MsgspecError, IndexError):
        code, message = (
            ("UNAUTHORIZED", _UNAUTHORIZED_TEXT) if status == 401 else ("", _unexpected(url, method, status))
        )
    return RemoteRefusal(status, code, message, retry_after=retry_after)


def translated(error: RemoteRefusal, name: Reference | None = None) -> BulkheadError:
    """Our error for a refusal; `name` is the image that was asked for, in a pull."""
    if name is not None:
        if error.code == "DENIED":
            hint = "repository does not exist or may require 'docker login'"
            return NotFound(f"pull access denied for {name.familiar_name}, {hint}: {error}")
        if error.code == "MANIFEST_UNKNOWN":
            return NotFound(f"manifest for {name.familiar()} not found: {error}")
        if error.code == "NAME_UNKNOWN":
            return NotFound(f"repository {name.familiar_name} not found: {error}")
    if error.temporary:
        return Unavailable(str(error))
    by_status = {401: Unauthorized, 403: Forbidden, 404: NotFound}
    return by_status.get(error.status, InvalidArgument)(str(error))


def unreachable(error: Exception, method: str, url: str) -> Unreachable:
    """Docker's text for a request that got no answer."""
    return Unreachable(f'{method.capitalize()} "{url}": {_reason(error)}')


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {error.host}: no such host"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"tls: failed to verify certificate: x509: {error.certificate_error}"
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        return f"tls: {error}"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"proxyconnect tcp: dial tcp {error.host}:{error.port}: connect: {_errno_text(error.os_error)}"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return error.message or f"proxy answers {error.status}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"dial tcp {error.host}:{error.port}: connect: {_errno_text(error.os_error)}"
    if isinstance(error, asyncio.TimeoutError):
        return "net/http: request canceled (Client.Timeout exceeded while awaiting headers)"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "EOF"
    if isinstance(error, OSError) and error.errno:
        return _errno_text(error)
    return str(error) or "unexpected EOF"


def _errno_text(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "no such host"
    known = {
        errno.ECONNREFUSED: "connection refused",
        errno.ECONNRESET: "connection reset by peer",
        errno.ENETUNREACH: "network is unreachable",
        errno.EHOSTUNREACH: "no route to host",
        errno.ETIMEDOUT: "connection timed out",
    }
    # Several addresses were tried: their errors come as one OSError without a number.
    text = (error.strerror or str(error)).lower()
    return known.get(error.errno or 0) or next((name for name in known.values() if name in text), text)


def _bearer_error(header: str) -> tuple[str, str] | None:
    """RFC 6750 section 3.1, as Docker reads it: the challenge may say more than the body."""
    if not header.lower().startswith("bearer"):
        return None
    if 'error="insufficient_scope"' in header:
        return "DENIED", _DENIED_TEXT
    if 'error="invalid_token"' in header:
        return "UNAUTHORIZED", _UNAUTHORIZED_TEXT
    return None


def _unexpected(url: str, method: str, status: int) -> str:
    return f"unexpected status from {method} request to {url}: {status}"


def _seconds(text: str) -> float | None:
    """Retry-After: seconds, or a date (RFC 9110 section 10.2.3)."""
    if text.isascii() and text.isdigit() and len(text) < 7:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())
