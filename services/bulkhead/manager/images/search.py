"""`docker search`: a registry's own list of repositories, and Docker Hub's search.

A term that begins with a host (`reg.example:5000/app`) is asked of that registry. Any other is asked of the mirrors of
docker.io, this installation's registry among them, and of Docker Hub itself; Hub may be out of reach, then what the
mirrors have is the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from bulkhead.content.auth import Credentials
from bulkhead.content.hub import HubResult
from bulkhead.errors import BulkheadError, InvalidArgument, Unavailable
from bulkhead.manager.images.ports import Registries
from bulkhead.model.filters import boolean, check_keys
from bulkhead.model.reference import OFFICIAL_PREFIX

log = structlog.get_logger()
_FILTERS = frozenset({"is-official", "is-automated", "stars"})
_DEFAULT_LIMIT, _MOST = 25, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """What to look for; `limit` 0 means Docker's default."""

    term: str
    limit: int = 0
    filters: Mapping[str, Sequence[str]]
    credentials: Credentials


class Search:
    """Looks for repositories."""

    def __init__(self, registries: Registries) -> None:
        self._registries = registries

    async def run(self, request: SearchRequest) -> list[HubResult]:
        """Repositories that fit. Raises InvalidArgument, Unauthorized, Unavailable."""
        if not 0 <= request.limit <= _MOST:
            raise InvalidArgument(f"limit {request.limit} is outside the range of [1, {_MOST}]")
        fits = _Wanted.of(request.filters)
        limit = request.limit or _DEFAULT_LIMIT
        host, term = _split(request.term)
        if host:
            names = await self._registries.catalog(host, request.credentials)
            found = [HubResult(name=f"{host}/{name}") for name in names if term in name]
        else:
            found = await self._at_hub(term, limit)
        return [each for each in found if fits.matches(each)][:limit]

    async def _at_hub(self, term: str, limit: int) -> list[HubResult]:
        found: dict[str, HubResult] = {}
        for mirror in self._registries.mirrors:
            try:
                names = await self._registries.catalog(mirror, Credentials())
            except BulkheadError as error:
                log.info("a mirror cannot be searched", mirror=mirror, reason=str(error))
                continue
            for name in names:
                short = name.removeprefix(OFFICIAL_PREFIX)
                if term in short:
                    found[short] = HubResult(name=short, is_official=name.startswith(OFFICIAL_PREFIX))
        try:
            for result in await self._registries.hub(term, limit):
                found.setdefault(result.name, result)
        except Unavailable:
            if not found:
                raise
        return list(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    official: bool | None
    automated: bool | None
    stars: int

    @staticmethod
    def of(filters: Mapping[str, Sequence[str]]) -> _Wanted:
        check_keys(filters, _FILTERS)
        stars = 0
        for value in filters.get("stars", ()):
            if not value.isdecimal() or len(value) > 9:
                raise InvalidArgument(f"invalid filter 'stars={value}'")
            stars = max(stars, int(value))
        return _Wanted(
            official=boolean(filters, "is-official"), automated=boolean(filters, "is-automated"), stars=stars
        )

    def matches(self, result: HubResult) -> bool:
        # Nothing is automated any more: Docker Hub says so of every repository.
        return (
            self.official in (None, result.is_official)
            and self.automated in (None, False)
            and result.star_count >= self.stars
        )


def _split(text: str) -> tuple[str, str]:
    """The registry that a term names, empty for docker.io, and the rest."""
    if not text:
        raise InvalidArgument("no term is given to search for")
    if "://" in text:
        raise InvalidArgument(f"invalid repository name: repository name ({text}) should not have a scheme")
    first, slash, rest = text.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost") and first not in _HUB:
        return first, rest
    term = rest if slash and first in _HUB else text
    return "", term.removeprefix(OFFICIAL_PREFIX)


_HUB = frozenset({"docker.io", "index.docker.io"})
