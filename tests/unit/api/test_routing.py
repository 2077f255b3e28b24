"""Names of images hold slashes and may end like verbs: the table must not be fooled."""

from __future__ import annotations

import pytest
from aiohttp import web

from bulkhead.api.call import Call
from bulkhead.api.routing import Route, Table


async def inspect(call: Call) -> web.StreamResponse:
    raise NotImplementedError


async def push(call: Call) -> web.StreamResponse:
    raise NotImplementedError


async def remove(call: Call) -> web.StreamResponse:
    raise NotImplementedError


TABLE = Table(
    (
        Route("GET,HEAD", "/_ping", push),
        Route("GET", "/images/{name:path}/json", inspect),
        Route("POST", "/images/{name:path}/push", push),
        Route("DELETE", "/images/{name:path}", remove),
        Route("GET", "/containers/{id}/json", inspect),
    )
)


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/images/busybox/json", "busybox"),
        ("GET", "/images/localhost:5000/a/b:1/json", "localhost:5000/a/b:1"),
        ("GET", "/images/a/json/json", "a/json"),
        ("DELETE", "/images/a/b/push", "a/b/push"),
    ],
)
def test_names_of_images_may_hold_slashes(method: str, path: str, name: str) -> None:
    found = TABLE.find(method, path)
    assert found is not None
    assert found[1] == {"name": name}


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/_ping"), ("GET", "/images//json"), ("GET", "/containers/a/b/json"), ("GET", "/"), ("PUT", "/images/x")],
)
def test_what_matches_nothing_is_not_found(method: str, path: str) -> None:
    assert TABLE.find(method, path) is None


def test_every_pattern_begins_with_a_word() -> None:
    """By which its table finds it."""
    assert TABLE.find("GET", "/containers/a/json") is not None
    assert TABLE.find("GET", "/container/a/json") is None
    assert TABLE.find("GET", "containers/a/json") is None


def test_the_first_of_several_that_fit_is_taken_whatever_the_last_segment_of_each_is() -> None:
    table = Table(
        (
            Route("GET", "/things/{a}/json", inspect),
            Route("GET", "/things/{b:path}", push),
            Route("GET", "/things/{c:path}/json", remove),
            Route("GET", "/others/{d}/json", remove),
        )
    )
    asked = {"/things/x/json": inspect, "/things/x/y/json": push, "/things/x/y": push, "/others/x/json": remove}
    for path, handler in asked.items():
        found = table.find("GET", path)
        assert found is not None and found.handler is handler, path
    assert table.find("GET", "/others/x/yson") is None
