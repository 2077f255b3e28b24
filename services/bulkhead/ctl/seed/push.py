"""The least of an OCI distribution client: is a tag there, and push an image (spec end-3, -4, -6, -7)."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlsplit

from bulkhead.ctl.seed.images import MANIFEST_TYPE, Image
from bulkhead.errors import Unavailable

_SECONDS = 30


def has_tag(registry: str, repository: str, tag: str) -> bool:
    """Whether the registry (host:port, plain HTTP) knows the tag. Raises Unavailable when it does not answer."""
    with _connected(registry) as connection:
        status, _ = _request(connection, "HEAD", f"/v2/{repository}/manifests/{tag}", accept=MANIFEST_TYPE)
    return status == 200


def push(registry: str, repository: str, tag: str, image: Image) -> None:
    """Upload the blobs that the registry lacks, then the manifest. Raises Unavailable on any refusal."""
    with _connected(registry) as connection:
        for digest, data in image.blobs.items():
            _push_blob(connection, repository, digest, data)
        path = f"/v2/{repository}/manifests/{tag}"
        status, _ = _request(connection, "PUT", path, image.manifest, content_type=MANIFEST_TYPE)
        _expect(status, 201, f"PUT {path}")


def _push_blob(connection: http.client.HTTPConnection, repository: str, digest: str, data: bytes) -> None:
    status, _ = _request(connection, "HEAD", f"/v2/{repository}/blobs/{digest}")
    if status == 200:
        return
    path = f"/v2/{repository}/blobs/uploads/"
    status, location = _request(connection, "POST", path)
    _expect(status, 202, f"POST {path}")
    place = urlsplit(location)
    query = f"{place.query}&digest={quote(digest)}" if place.query else f"digest={quote(digest)}"
    status, _ = _request(connection, "PUT", f"{place.path}?{query}", data, content_type="application/octet-stream")
    _expect(status, 201, f"PUT {place.path}")


def _request(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    accept: str = "*/*",
    content_type: str = "",
) -> tuple[int, str]:
    """Status and Location of one request."""
    headers = {"Accept": accept} | ({"Content-Type": content_type} if content_type else {})
    if method == "POST" and body is None:
        headers["Content-Length"] = "0"
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    response.read()
    return response.status, response.headers.get("Location", "")


def _expect(status: int, wanted: int, what: str) -> None:
    if status != wanted:
        raise Unavailable(f"cannot push to the registry: {what} answered {status}")


@contextmanager
def _connected(registry: str) -> Iterator[http.client.HTTPConnection]:
    host, _, port = registry.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=_SECONDS)
    try:
        yield connection
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"cannot reach the registry at {registry}: {error}") from error
    finally:
        connection.close()
