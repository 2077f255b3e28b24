"""From a URL to a handler: the registry's whole surface in one table.

Repository names contain slashes, so paths are read from their end; aiohttp's router is not used.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from bulkhead.registry.blobs import Blobs
from bulkhead.registry.errors import Code, Refusal
from bulkhead.registry.manifests import Manifests
from bulkhead.registry.tags import Tags
from bulkhead.registry.uploads import Uploads

Handler = Callable[..., Awaitable[web.StreamResponse]]
Routes = tuple[tuple[re.Pattern[str], Mapping[str, Handler]], ...]


def table(blobs: Blobs, uploads: Uploads, manifests: Manifests, tags: Tags) -> Routes:
    """(path, method -> handler); groups of the path become the handler's keyword arguments."""
    read = {"GET": manifests.get, "HEAD": manifests.head}
    rows: list[tuple[str, Mapping[str, Handler]]] = [
        (
            r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)",
            {**read, "PUT": manifests.put, "DELETE": manifests.delete},
        ),
        (
            r"/v2/(?P<name>.+)/blobs/(?P<digest>[^/]*:[^/]*)",
            {"GET": blobs.get, "HEAD": blobs.head, "DELETE": blobs.delete},
        ),
        (r"/v2/(?P<name>.+)/blobs/uploads/?", {"POST": uploads.start}),
        (
            r"/v2/(?P<name>.+)/blobs/uploads/(?P<upload_id>[^/]+)",
            {"PATCH": uploads.append, "PUT": uploads.finish, "GET": uploads.status, "DELETE": uploads.cancel},
        ),
        (r"/v2/(?P<name>.+)/tags/list/?", {"GET": tags.list, "HEAD": tags.list}),
        (r"/v2/(?P<name>.+)/referrers/(?P<digest>[^/]+)", {"GET": manifests.referrers, "HEAD": manifests.referrers}),
        (r"/v2/_catalog/?", {"GET": tags.catalog, "HEAD": tags.catalog}),
        (r"/v2/?", {"GET": _version, "HEAD": _version}),
        (r"/healthz", {"GET": _health, "HEAD": _health}),
        (r"/v2/(?P<name>.+)/blobs/(?P<digest>[^/]+)", {"GET": blobs.get, "HEAD": blobs.head, "DELETE": blobs.delete}),
    ]
    return tuple((re.compile(pattern), methods) for pattern, methods in rows)


def find(routes: Routes, method: str, path: str) -> tuple[Handler, dict[str, Any]]:
    """The handler of a request and its arguments; raises Refusal(UNSUPPORTED), or HTTPNotFound."""
    for pattern, methods in routes:
        match = pattern.fullmatch(path)
        if match is not None:
            handler = methods.get(method)
            if handler is None:
                raise Refusal(Code.UNSUPPORTED, headers={"Allow": ", ".join(methods)})
            return handler, match.groupdict()
    raise web.HTTPNotFound()


async def _version(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b"{}", content_type="application/json")


async def _health(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b'{"status":"ok"}', content_type="application/json")
