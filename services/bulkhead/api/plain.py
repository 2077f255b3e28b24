"""Requests that are plain: all of them came at once, and nothing in them is escaped or asks for anything special.

Nearly all are. What aiohttp makes of one (a URL, two multidicts, a stream for its body, a writer) takes longer than
most handlers do, and in a service that was idle several times that. A regular expression tells the same of the few
bytes that a plain one is. All others are aiohttp's, and so is a plain one whose answer has a head of its own: `whole`.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Protocol

from aiohttp import web

# Each part ends where the next begins: nothing is tried twice. (Possessive groups match wrongly in Python 3.11.2.)
_SHAPE = re.compile(
    rb"(GET|POST|PUT|DELETE) (/[A-Za-z0-9/._:@~-]*)(?:\?([A-Za-z0-9=&._:@,~-]*))? HTTP/1\.1\r\n"
    rb"((?:[A-Za-z0-9-]+:[ \t]*[\x21-\x7e][\x20-\x7e]*\r\n)+)\r\n"
)
_LONGEST_HEAD, _MOST_FIELDS = 4096, 32
_SPECIAL = frozenset(
    ("content-encoding", "expect", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade")
)  # fmt: skip
_UPGRADE = frozenset(("upgrade",))
_LENGTH = re.compile(r"[0-9]{1,9}")


class Headers(dict[str, str]):
    """Fields by their names in lower case, asked for in any."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


class Query:
    """The parameters of a query, each with all its values."""

    __slots__ = ("_values",)

    def __init__(self, text: str) -> None:
        self._values: dict[str, list[str]] = {}
        for part in filter(None, text.split("&")):
            name, _, value = part.partition("=")
            self._values.setdefault(name, []).append(value)

    def get(self, name: str, default: Any = None) -> Any:
        """The first value."""
        values = self._values.get(name)
        return values[0] if values else default

    def getall(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)


class Connection(Protocol):
    """What such a request needs of its own."""

    def whole(self, data: bytes) -> web.BaseRequest:
        """What aiohttp makes of a request's bytes."""


class _Writer(NamedTuple):
    """What is asked of a request's writer: whether something of the answer is out."""

    output_size: int


_UNWRITTEN, _WRITTEN = _Writer(0), _Writer(1)


class PlainRequest:
    """As much of `web.BaseRequest` as handlers ask for."""

    __slots__ = ("_data", "_query", "_whole", "begun", "body", "headers", "method", "path", "protocol", "query_string")

    def __init__(self, protocol: Connection, data: bytes, head: re.Match[bytes], headers: Headers) -> None:
        self.protocol = protocol
        self.headers = headers
        self.method, self.path = head[1].decode(), head[2].decode()
        self.query_string = (head[3] or b"").decode()
        self.body = data[head.end() :]
        self.begun = False  # something of the answer is out, though aiohttp does not know
        self._data = data
        self._query: Query | None = None
        self._whole: web.BaseRequest | None = None

    @staticmethod
    def read(data: bytes, protocol: Connection, *, may_upgrade: bool = False) -> PlainRequest | None:
        """The request that these bytes are; None when it is not plain, not complete or not the only one.

        `may_upgrade`: to ask for the raw stream is nothing special (see `hijack`).
        """
        end = data.find(b"\r\n\r\n", 0, _LONGEST_HEAD) + 4
        head = _SHAPE.fullmatch(data, 0, end) if end >= 4 else None
        # What a URL's reader might make something else of.
        if head is None or b"//" in head[2] or b"/." in head[2]:
            return None
        headers = _headers(head[4], may_upgrade=may_upgrade)
        if headers is None or len(data) - end != int(dict.get(headers, "content-length", "0")):
            return None
        return PlainRequest(protocol, data, head, headers)

    @property
    def query(self) -> Query:
        if self._query is None:
            self._query = Query(self.query_string)
        return self._query

    @property
    def content_length(self) -> int | None:
        return len(self.body) if "content-length" in self.headers else None

    @property
    def writer(self) -> Any:
        if self._whole is not None:
            return self._whole.writer
        return _WRITTEN if self.begun else _UNWRITTEN

    @property
    def is_whole(self) -> bool:
        """Whether aiohttp has it, too, and answers it."""
        return self._whole is not None

    @property
    def whole(self) -> web.BaseRequest:
        """What aiohttp makes of it."""
        if self._whole is None:
            self._whole = self.protocol.whole(self._data)
        return self._whole


def _headers(lines: bytes, *, may_upgrade: bool) -> Headers | None:
    """None where something is told twice or special, where there is no host, or no length in what is said of it."""
    told = lines.decode().split("\r\n")
    told.pop()
    headers = Headers()
    for line in told:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip(" \t")
    names = headers.keys()  # which are asked as they are; the rest by `dict`'s own
    if len(headers) != len(told) or len(told) > _MOST_FIELDS or "host" not in names:
        return None
    connection, special = dict.get(headers, "connection", "keep-alive").lower(), names & _SPECIAL
    if special or connection != "keep-alive":
        upgrades = connection == "upgrade" and special == _UPGRADE and headers["upgrade"] == "tcp"
        if not (may_upgrade and upgrades):
            return None
    return headers if _LENGTH.fullmatch(dict.get(headers, "content-length", "0")) else None
