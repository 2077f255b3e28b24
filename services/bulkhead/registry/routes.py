"""From a URL to a handler: the registry's whole surface in one table.

Repository names contain slashes, so paths are read from their end; aiohttp's router is not used.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from aiohttp import web

from bulkhead.registry.blobs import Blobs
from bulkhead.registry.errors import Code, Refusal
from bulkhead.registry.manifests import Manifests
from bulkhead.registry.metrics import Metrics
from bulkhead.registry.tags import Tags
from bulkhead.registry.uploads import Uploads

Handler = Callable[..., Awaitable[web.StreamResponse]]
Routes = tuple[tuple[str, re.Pattern[str], Mapping[str, Handler]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The route that a path takes."""

    name: str
    handlers: Mapping[str, Handler]
    arguments: dict[str, str]

    def taking(self, method: str) -> Handler:
        """What answers requests with this method; raises Refusal(UNSUPPORTED)."""
        handler = self.handlers.get(method)
        if handler is None:
            raise Refusal(Code.UNSUPPORTED, headers={"Allow": ", ".join(self.handlers)})
        return handler


def table(blobs: Blobs, uploads: Uploads, manifests: Manifests, tags: Tags, metrics: Metrics) -> Routes:
    """(name, path, method -> handler); groups of the path become the handler's keyword arguments."""
    read = {"GET": manifests.get, "HEAD": manifests.head}
    rows: list[tuple[str, str, Mapping[str, Handler]]] = [
        (
            "manifest",
            r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)",
            {**read, "PUT": manifests.put, "DELETE": manifests.delete},
        ),
        (
            "blob",
            r"/v2/(?P<name>.+)/blobs/(?P<digest>[^/]*:[^/]*)",
            {"GET": blobs.get, "HEAD": blobs.head, "DELETE": blobs.delete},
        ),
        ("uploads", r"/v2/(?P<name>.+)/blobs/uploads/?", {"POST": uploads.start}),
        (
            "upload",
            r"/v2/(?P<name>.+)/blobs/uploads/(?P<upload_id>[^/]+)",
            {"PATCH": uploads.append, "PUT": uploads.finish, "GET": uploads.status, "DELETE": uploads.cancel},
        ),
        ("tags", r"/v2/(?P<name>.+)/tags/list/?", {"GET": tags.list, "HEAD": tags.list}),
        (
            "referrers",
            r"/v2/(?P<name>.+)/referrers/(?P<digest>[^/]+)",
            {"GET": manifests.referrers, "HEAD": manifests.referrers},
        ),
        ("catalog", r"/v2/_catalog/?", {"GET": tags.catalog, "HEAD": tags.catalog}),
        ("version", r"/v2/?", {"GET": _version, "HEAD": _version}),
        ("health", r"/healthz", {"GET": _health, "HEAD": _health}),
        ("metrics", r"/metrics", {"GET": partial(_metrics, metrics), "HEAD": partial(_metrics, metrics)}),
        (
            "blob",
            r"/v2/(?P<name>.+)/blobs/(?P<digest>[^/]+)",
            {"GET": blobs.get, "HEAD": blobs.head, "DELETE": blobs.delete},
        ),
    ]
    return tuple((name, re.compile(pattern), methods) for name, pattern, methods in rows)


def find(routes: Routes, path: str) -> Found | None:
    """The route of a path; None when there is none."""
    for name, pattern, methods in routes:
        match = pattern.fullmatch(path)
        if match is not None:
            return Found(name=name, handlers=methods, arguments=match.groupdict())
    return None


async def _version(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b"{}", content_type="application/json")


async def _metrics(metrics: Metrics, request: web.BaseRequest) -> web.StreamResponse:
    from bulkhead.registry import exposition  # 0.9 MB and 10 ms of a start with Prometheus's library: few ask

    return web.Response(body=exposition.text(metrics), headers={"Content-Type": exposition.CONTENT_TYPE})


async def _health(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b'{"status":"ok"}', content_type="application/json")
