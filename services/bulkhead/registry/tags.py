"""Lists of tags and of repositories, a page at a time."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from bulkhead.registry import callers, names
from bulkhead.registry.callers import Caller
from bulkhead.registry.errors import Code, Refusal
from bulkhead.registry.ports import Page, Storage

DEFAULT_CATALOG_PAGE = 100
MAX_PAGE = 1000
# Tags have no default page size in the specification: without n all are sent.
ALL = 1 << 31
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)


class Tags:
    """/v2/<name>/tags/list and /v2/_catalog."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def list(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        repository = names.repository(name)
        limit = limit_of(request, ALL)
        page = await self._storage.tags(repository, after=request.query.get("last", ""), limit=limit)
        return answer({"name": repository, "tags": page.names}, page, f"/v2/{repository}/tags/list", limit)

    async def catalog(self, request: web.BaseRequest) -> web.StreamResponse:
        limit = limit_of(request, DEFAULT_CATALOG_PAGE)
        if limit > MAX_PAGE:
            raise Refusal(Code.PAGINATION_NUMBER_INVALID, detail={"n": limit})
        page = await self._readable(callers.of(request), request.query.get("last", ""), limit)
        return answer({"repositories": page.names}, page, "/v2/_catalog", limit)

    async def _readable(self, caller: Caller, after: str, limit: int) -> Page:
        """The next `limit` repositories that exist for `caller`."""
        found: list[str] = []
        while len(found) <= limit:
            page = await self._storage.repositories(after=after, limit=MAX_PAGE)
            found += filter(caller.may_read, page.names)
            if not page.more:
                break
            after = page.names[-1]
        return Page(names=tuple(found[:limit]), more=bool(limit) and len(found) > limit)


def limit_of(request: web.BaseRequest, default: int = ALL) -> int:
    """How many names are asked for; raises Refusal(PAGINATION_NUMBER_INVALID)."""
    text = request.query.get("n")
    if text is None:
        return default
    if not _NUMBER.fullmatch(text):
        raise Refusal(Code.PAGINATION_NUMBER_INVALID, detail={"n": text[:32]})
    return int(text)


def answer(content: dict[str, object], page: Page, path: str, limit: int) -> web.Response:
    response = web.Response(body=msgspec.json.encode(content), content_type="application/json")
    if page.more:
        query = urlencode({"n": limit, "last": page.names[-1]})
        response.headers["Link"] = f'<{path}?{query}>; rel="next"'
    return response
