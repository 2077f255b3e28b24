"""Whom a search asks, and what is told when one of them is out of reach."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from bulkhead.content.auth import Credentials
from bulkhead.content.hub import HubResult
from bulkhead.errors import InvalidArgument, Unavailable
from bulkhead.manager.images.search import Search, SearchRequest


@dataclass
class Registries:
    catalogs: dict[str, list[str]] = field(default_factory=dict)
    at_hub: list[HubResult] | None = None
    mirrors: tuple[str, ...] = ()

    async def catalog(self, host: str, credentials: Credentials) -> list[str]:
        if host not in self.catalogs:
            raise Unavailable(f"no {host}")
        return self.catalogs[host]

    async def hub(self, term: str, limit: int) -> list[HubResult]:
        if self.at_hub is None:
            raise Unavailable("no hub")
        return self.at_hub


async def found(registries: Registries, term: str, limit: int = 0, **filters: tuple[str, ...]) -> list[str]:
    named = {name.replace("_", "-"): values for name, values in filters.items()}
    request = SearchRequest(term=term, limit=limit, filters=named, credentials=Credentials())
    return [each.name for each in await Search(cast(Any, registries)).run(request)]


async def test_a_host_in_the_term_is_asked_alone() -> None:
    registries = Registries({"reg:5000": ["team/app", "other"]}, [HubResult(name="app")])
    assert await found(registries, "reg:5000/app") == ["reg:5000/team/app"]
    with pytest.raises(Unavailable):
        await found(registries, "away.example/app")


async def test_mirrors_come_before_the_hub() -> None:
    hub = [HubResult(name="app", star_count=5), HubResult(name="apple", star_count=9)]
    registries = Registries({"m": ["library/app", "x/app"]}, hub, mirrors=("m", "dead"))
    assert await found(registries, "app") == ["app", "x/app", "apple"]
    assert await found(registries, "docker.io/library/app", limit=1) == ["app"]
    assert await found(registries, "app", stars=("6",)) == ["apple"]
    assert await found(registries, "app", is_official=("true",)) == ["app"]
    assert await found(registries, "app", is_automated=("true",)) == []


async def test_the_hub_may_be_away() -> None:
    registries = Registries({"m": ["app"]}, None, mirrors=("m",))
    assert await found(registries, "app") == ["app"]
    with pytest.raises(Unavailable):
        await found(registries, "nothing")


@pytest.mark.parametrize(
    ("term", "limit", "filters"),
    [("", 0, {}), ("x", 101, {}), ("x", -1, {}), ("https://x", 0, {}), ("x", 0, {"stars": ("many",)})],
)
async def test_bad_requests(term: str, limit: int, filters: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(InvalidArgument):
        await found(Registries({}, []), term, limit, **filters)
