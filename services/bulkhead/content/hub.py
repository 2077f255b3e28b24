"""Docker Hub's search: the one thing that outlived the index protocol of version 1."""

from __future__ import annotations

import msgspec
from yarl import URL

from bulkhead import __version__
from bulkhead.content.later import aiohttp
from bulkhead.content.transport import Transport
from bulkhead.errors import Unavailable

_SEARCH = URL("https://index.docker.io/v1/search")
_SECONDS = 15.0
_LARGEST = 4 << 20


class HubResult(msgspec.Struct, frozen=True, kw_only=True):
    """A repository as Docker Hub describes it."""

    name: str
    description: str = ""
    star_count: int = 0
    is_official: bool = False


class _Page(msgspec.Struct):
    results: list[HubResult] = []


async def search_hub(transport: Transport, term: str, limit: int) -> list[HubResult]:
    """At most `limit` repositories for `term`. Raises Unavailable when Docker Hub gives no answer."""
    url = _SEARCH.with_query(q=term, n=str(limit))
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    headers = {"User-Agent": f"bulkhead/{__version__}", "X-Docker-Token": "true"}
    options = transport.options(url, _SEARCH.authority)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(url, allow_redirects=False, **options) as answer,
        ):
            if answer.status != 200:
                raise Unavailable(f"Unexpected status code {answer.status}")
            body = await answer.content.read(_LARGEST)
        return msgspec.json.decode(body, type=_Page).results[:limit]
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unavailable(f'Get "{url}": {str(error) or type(error).__name__}') from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Unavailable(f"error decoding registry search results: {error}") from error
