"""Which handler answers a method and a path.

Patterns are Docker's: `{id}` is one segment, `{name:path}` any number of them, for names of images hold slashes.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from aiohttp import web

from bulkhead.api.call import Call

Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    methods: str  # separated by commas
    pattern: str
    handler: Handler


class Found(NamedTuple):
    """The route of a request; `pattern` is one of a finite number of names for what was asked."""

    handler: Handler
    arguments: dict[str, str]
    pattern: str


class _Tried(NamedTuple):
    """A pattern with arguments; `last` is its last segment, None where that is one of them."""

    last: str | None
    pattern: re.Pattern[str]
    route: Route


class Table:
    """The routes, asked in the order in which they were given; but for those that begin or end otherwise."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[tuple[str, str], Handler] = {}
        tried: dict[tuple[str, str], list[_Tried]] = {}
        for route in routes:
            for method in route.methods.split(","):
                if "{" not in route.pattern:
                    self._fixed.setdefault((method, route.pattern), route.handler)
                else:
                    last = _last(route.pattern)
                    each = _Tried(None if "{" in last else last, _compile(route.pattern), route)
                    tried.setdefault((method, _first(route.pattern)), []).append(each)
        # By method, first and last segment: those that may fit.
        self._patterns = {
            (*key, last): [each for each in all_tried if each.last in (last, None)]
            for key, all_tried in tried.items()
            for last in {None, *(each.last for each in all_tried)}
        }

    def find(self, method: str, path: str) -> Found | None:
        fixed = self._fixed.get((method, path))
        if fixed is not None:
            return Found(fixed, {}, path)
        first = _first(path)
        tried = self._patterns.get((method, first, _last(path))) or self._patterns.get((method, first, None), [])
        for _, pattern, route in tried:
            if match := pattern.fullmatch(path):
                return Found(route.handler, match.groupdict(), route.pattern)
        return None


def _first(path: str) -> str:
    """The first segment, which in a pattern is always a word."""
    return path[1:].partition("/")[0]


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)(:path)?\}", pattern)
    regex = re.escape(parts[0])
    for name, greedy, rest in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        regex += f"(?P<{name}>{'.+' if greedy else '[^/]+'})" + re.escape(rest)
    return re.compile(regex)
