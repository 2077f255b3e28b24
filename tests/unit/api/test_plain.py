"""Plain requests are read as aiohttp reads them; whatever may mean anything else is left to aiohttp."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser

from bulkhead.api.plain import Connection, PlainRequest

HOST = b"Host: docker\r\n"


class Nobody(Connection):
    def whole(self, data: bytes) -> web.BaseRequest:
        raise AssertionError("nobody asked for it")


def read(data: bytes) -> PlainRequest | None:
    return PlainRequest.read(data, Nobody())


UPGRADING = b"POST /exec/x/start HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: "


async def by_aiohttp(data: bytes) -> tuple[Any, bytes]:
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 65536)
    [(message, payload)], _, _ = parser.feed_data(data)
    return message, await payload.read()


PLAIN = [
    b"GET /_ping HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /v1.41/containers/json?all=1&limit=-1 HTTP/1.1\r\n" + HOST + b"User-Agent: Docker-Client/27 (linux)\r\n\r\n",
    b"DELETE /v1.51/containers/web_1?force=1&v=&v=0&link HTTP/1.1\r\n" + HOST + b"Connection: keep-alive\r\n\r\n",
    b"DELETE /images/localhost:5000/a/b:c@sha256:0 HTTP/1.1\r\nHOST:  docker \r\nx-request-id: a:b, c\r\n\r\n",
    b"POST /containers/x/start HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    b"POST /containers/create HTTP/1.1\r\n"
    + HOST
    + b'Content-Type: application/json\r\ncontent-length: 8\r\n\r\n{"a": 1}',
]


@pytest.mark.parametrize("data", PLAIN)
async def test_a_plain_request_is_what_aiohttp_makes_of_it(data: bytes) -> None:
    request = read(data)
    assert request is not None
    message, body = await by_aiohttp(data)
    url = message.url
    assert (request.method, request.path, request.query_string) == (message.method, url.path, url.query_string)
    assert {name: request.query.getall(name) for name in url.query} == {
        name: url.query.getall(name) for name in url.query
    }
    assert request.headers == {name.lower(): value for name, value in message.headers.items()}
    assert request.body == body


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"HEAD /_ping HTTP/1.1\r\n" + HOST + b"\r\n", id="HEAD"),
        pytest.param(b"GET /_ping HTTP/1.0\r\n" + HOST + b"\r\n", id="HTTP/1.0"),
        pytest.param(b"GET /images/a%2Fb/json HTTP/1.1\r\n" + HOST + b"\r\n", id="escape"),
        pytest.param(b"GET /x?filters=%7B%7D HTTP/1.1\r\n" + HOST + b"\r\n", id="escape in query"),
        pytest.param(b"GET /x?a=1+1 HTTP/1.1\r\n" + HOST + b"\r\n", id="plus"),
        pytest.param(b"GET /x/../y HTTP/1.1\r\n" + HOST + b"\r\n", id="dots"),
        pytest.param(b"GET //host/x HTTP/1.1\r\n" + HOST + b"\r\n", id="slashes"),
        pytest.param(b"GET http://host/x HTTP/1.1\r\n" + HOST + b"\r\n", id="whole URL"),
        pytest.param(b"GET /x HTTP/1.1\n" + HOST + b"\r\n", id="line feed"),
        pytest.param(b"GET /x HTTP/1.1\r\n" + HOST + b" folded\r\n\r\n", id="folded field"),
        pytest.param(b"GET /x HTTP/1.1\r\nHost : docker\r\n\r\n", id="blank in name"),
        pytest.param(b"GET /x HTTP/1.1\r\n" + HOST + b"A: \xff\r\n\r\n", id="not ASCII"),
        pytest.param(b"GET /x HTTP/1.1\r\n" + HOST + b"A: \0\r\n\r\n", id="control"),
        pytest.param(b"GET /x HTTP/1.1\r\n" + HOST + HOST + b"\r\n", id="told twice"),
        pytest.param(b"GET /x HTTP/1.1\r\n\r\n", id="no fields"),
        pytest.param(b"GET /x HTTP/1.1\r\n" + HOST + b"A:\r\n", id="cut off after an empty field"),
        pytest.param(b"GET /x HTTP/1.1\r\nHost-Name: docker\r\n\r\n", id="no host"),
        pytest.param(b"GET /x HTTP/1.1\r\n" + HOST, id="incomplete head"),
        pytest.param(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\n{", id="incomplete body"),
        pytest.param(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\n{}", id="more behind"),
        pytest.param(b"GET /x HTTP/1.1\r\n" + HOST + b"\r\nGET /y HTTP/1.1\r\n" + HOST + b"\r\n", id="two"),
        pytest.param(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: +0\r\n\r\n", id="signed length"),
        pytest.param(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 0, 0\r\n\r\n", id="two lengths"),
        pytest.param(
            b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\ncontent-length: 0\r\n\r\n", id="length told twice"
        ),
        pytest.param(b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", id="chunked"),
        pytest.param(b"POST /x HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\n\r\n", id="expects"),
        pytest.param(b"GET /x HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", id="close"),
        pytest.param(b"GET /x HTTP/1.1\r\n" + HOST + b"Upgrade: h2c\r\n\r\n", id="upgrade"),
        pytest.param(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Encoding: gzip\r\n\r\n", id="coded"),
        pytest.param(b"GET /x HTTP/1.1\r\n" + b"".join(b"A%d: x\r\n" % n for n in range(33)) + b"\r\n", id="many"),
        pytest.param(b"GET /x HTTP/1.1\r\nA: " + b"x" * 5000 + b"\r\n\r\n", id="long"),
    ],
)
def test_what_may_mean_anything_else_is_aiohttps(data: bytes) -> None:
    assert read(data) is None


@pytest.mark.parametrize("data", [UPGRADING + b"0\r\n\r\n", UPGRADING + b"2\r\n\r\n{}"], ids=["empty", "body"])
async def test_to_ask_for_the_raw_stream_is_plain_where_there_is_one(data: bytes) -> None:
    request = PlainRequest.read(data, Nobody(), may_upgrade=True)
    assert request is not None
    message, body = await by_aiohttp(data)
    assert request.headers == {name.lower(): value for name, value in message.headers.items()}
    assert (request.body, message.should_close) == (body, False)
    assert read(data) is None


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(b"Upgrade: h2c\r\nConnection: Upgrade\r\n", id="to something else"),
        pytest.param(b"Upgrade: tcp\r\n", id="only named"),
        pytest.param(b"Upgrade: tcp\r\nConnection: keep-alive, Upgrade\r\n", id="with more"),
        pytest.param(b"Connection: Upgrade\r\n", id="to nothing"),
        pytest.param(b"Connection: Upgrade\r\nUpgrade: tcp\r\nExpect: 100-continue\r\n", id="expects"),
    ],
)
def test_any_other_way_to_ask_for_it_is_aiohttps(fields: bytes) -> None:
    data = b"POST /exec/x/start HTTP/1.1\r\n" + HOST + fields + b"\r\n"
    assert PlainRequest.read(data, Nobody(), may_upgrade=True) is None


def test_fields_and_parameters_are_found_as_aiohttp_finds_them() -> None:
    request = read(b"GET /x?a=1&a=2&b HTTP/1.1\r\n" + HOST + b"X-Registry-Auth: e30=\r\n\r\n")
    assert request is not None
    assert "x-registry-AUTH" in request.headers
    assert "Upgrade" not in request.headers
    assert (request.headers["X-Registry-Auth"], request.headers.get("Origin", "-")) == ("e30=", "-")
    assert (request.query.get("a"), request.query.get("b"), request.query.get("c", "-")) == ("1", "", "-")
    assert (request.query.getall("a"), request.query.getall("c", [])) == (["1", "2"], [])
    assert request.content_length is None
