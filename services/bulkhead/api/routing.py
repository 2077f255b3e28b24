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


class Table:
    """The routes, asked in the order in which they were given; but for those that begin otherwise."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[tuple[str, str], Handler] = {}
        self._patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], Route]]] = {}
        for route in routes:
            for method in route.methods.split(","):
                self._add(method, route)

    def _add(self, method: str, route: Route) -> None:
        if "{" not in route.pattern:
            self._fixed.setdefault((method, route.pattern), route.handler)
        else:
            found = self._patterns.setdefault((method, _first(route.pattern)), [])
            found.append((_compile(route.pattern), route))

    def find(self, method: str, path: str) -> Found | None:
        fixed = self._fixed.get((method, path))
        if fixed is not None:
            return Found(fixed, {}, path)
        for pattern, route in self._patterns.get((method, _first(path)), ()):
            if match := pattern.fullmatch(path):
                return Found(route.handler, match.groupdict(), route.pattern)
        return None


def _first(path: str) -> str:
    """The first segment, which in a pattern is always a word."""
    return path[1:].partition("/")[0]


def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)(:path)?\}", pattern)
    regex = re.escape(parts[0])
    for name, greedy, rest in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        regex += f"(?P<{name}>{'.+' if greedy else '[^/]+'})" + re.escape(rest)
    return re.compile(regex)
