"""C15, M09: a request is framed one way only, and what is looked at is what is done."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.security.api.wire import connected, containers, create, exchange, statuses, until
from tests.support.engine import Engine

SECRET: dict[str, Any] = {"Image": "busybox", "Cmd": ["sleep", "100"], "HostConfig": {"Privileged": True}}
BODY = json.dumps(SECRET).encode()
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
TE = "Transfer-Encoding: chunked"
LENGTH = f"Content-Length: {len(BODY)}"
WIDE = json.dumps(SECRET).encode("utf-16")


def going_on(raw: bytes) -> bytes:
    """A request that is not the connection's last."""
    return raw.replace(b"Connection: close\r\n", b"", 1)


@pytest.fixture(autouse=True)
def emptied(engine: Engine) -> Iterator[None]:
    yield
    engine.remove_containers()


AMBIGUOUS = {
    "length-0-and-chunks": create(CHUNKED, "Content-Length: 0", TE, length=False),
    "length-and-chunks": create(CHUNKED, TE),
    "two-lengths": create(BODY, "Content-Length: 0"),
    "one-length-twice": create(BODY, LENGTH),
    "a-list-of-lengths": create(BODY, f"{LENGTH}, {len(BODY)}", length=False),
    "a-signed-length": create(BODY, f"Content-Length: +{len(BODY)}", length=False),
    "xchunked": create(CHUNKED, "Transfer-Encoding: xchunked", length=False),
    "chunked-twice": create(CHUNKED, TE, TE, length=False),
    "identity": create(BODY, "Transfer-Encoding: identity"),
    "chunked-not-last": create(CHUNKED, f"{TE}, identity", length=False),
    "another-coding": create(CHUNKED, "Transfer-Encoding: gzip, chunked", length=False),
    "bare-lf": create(BODY).replace(b"\r\n", b"\n"),
    "bare-lf-in-a-field": create(BODY, f"X: y\n{TE}"),
    "bare-cr-in-a-field": create(BODY, f"X: y\r{TE}"),
    "space-before-colon": create(BODY, f"Content-Length : {len(BODY)}", length=False),
    "space-before-the-other-colon": create(BODY, "Transfer-Encoding : chunked"),
    "folded": create(BODY, f"X: y\r\n {TE}"),
    "folded-coding": create(CHUNKED, "Transfer-Encoding:\r\n chunked", length=False),
    "size-0x": create(b"0x" + CHUNKED, TE, length=False),
    "size-negative": create(b"-" + CHUNKED, TE, length=False),
    "size-of-64-bits-and-more": create(b"1" + b"0" * 16 + CHUNKED, TE, length=False),
    "chunk-longer-than-said": create(CHUNKED.replace(b"\r\n0\r\n", b"XX\r\n0\r\n"), TE, length=False),
    "lf-in-an-extension": create(CHUNKED.replace(b"\r\n", b";a\nb\r\n", 1), TE, length=False),
    "two-hosts": create(BODY, "Host: other"),
    "nul-in-a-field": create(BODY, "X: a\0b"),
    "lower-case-method": create(BODY).replace(b"POST", b"post", 1),
    "mixed-case-method": create(BODY).replace(b"POST", b"Post", 1),
    "http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("raw", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_refused_and_the_connection_closed(engine: Engine, raw: bytes) -> None:
    """A second request behind it is never looked at, nor is the one that such a body may hide."""
    assert statuses(exchange(engine, going_on(raw) + create(SECRET))) == [400]
    assert containers(engine) == []


PLAIN = {
    "length": create(BODY),
    "chunks": create(CHUNKED, TE, length=False),
    "chunks-with-an-extension": create(CHUNKED.replace(b"\r\n", b";a=b\r\n", 1), TE, length=False),
}


@pytest.mark.parametrize("raw", PLAIN.values(), ids=PLAIN)
def test_the_control_what_can_be_read_in_one_way_is_done(engine: Engine, raw: bytes) -> None:
    assert statuses(exchange(engine, going_on(raw) + create(SECRET))) == [201, 201]
    assert len(containers(engine)) == 2


UNREADABLE = {
    "gzip": create(gzip.compress(BODY), "Content-Encoding: gzip"),
    "bom": create(b"\xef\xbb\xbf" + BODY),
    "utf-16": create(WIDE),
    "utf-16-le": create(WIDE[2:]),
    "a-second-document": create(b'{"Image":"busybox"}' + BODY),
    "too-large": create(BODY[:-1] + b',"Pad":"' + b"x" * (8 << 20) + b'"}'),
}


@pytest.mark.parametrize("raw", UNREADABLE.values(), ids=UNREADABLE)
def test_bodies_that_only_some_can_read_are_refused(engine: Engine, raw: bytes) -> None:
    assert statuses(exchange(engine, raw)) == [400]
    assert containers(engine) == []


def config(host: str, rest: str = "") -> bytes:
    return f'{{"Image":"busybox","Cmd":["sleep","100"]{rest},{host}}}'.encode()


SPELLED = {
    "plainly": (config('"HostConfig":{"Privileged":true}'), True),
    "not-at-all": (config('"HostConfig":{"Privileged":false}'), False),
    "twice-on-last": (config('"HostConfig":{"Privileged":false,"Privileged":true}'), True),
    "twice-off-last": (config('"HostConfig":{"Privileged":true,"Privileged":false}'), False),
    "two-objects": (config('"HostConfig":{"Privileged":false},"HostConfig":{"Privileged":true}'), True),
    "another-case-beside": (config('"HostConfig":{"Privileged":false,"privileged":true}'), False),
    "another-case-alone": (config('"HostConfig":{"privileged":true}'), True),
    "another-object-beside": (config('"hostconfig":{"Privileged":true},"HostConfig":{"Privileged":false}'), False),
    "letters-that-fold": (config('"HostConfig":{"Privi\u017feged":true},"Ho\u017ftConfig":{"Privileged":true}'), False),
    "escaped-key": (config('"HostConfig":{"Privile\\u0067ed":true}'), True),
    "inside-a-string": (config('"Labels":{"a":"\\"},\\"HostConfig\\":{\\"Privileged\\":true}"}'), False),
    "behind-a-megabyte": (config('"HostConfig":{"Privileged":true}', ',"Labels":{"x":"%s"}' % ("x" * (2 << 20))), True),
}


@pytest.mark.parametrize(("body", "privileged"), SPELLED.values(), ids=SPELLED)
def test_what_is_told_is_what_runs(engine: Engine, body: bytes, privileged: bool) -> None:
    """Whoever decides by what the engine tells of a container decides about the one that runs."""
    assert statuses(exchange(engine, create(body))) == [201]
    (container,) = containers(engine)
    assert engine.api("POST", f"/containers/{container}/start").status == 204
    found = engine.api("GET", f"/containers/{container}/json").json
    assert found["HostConfig"]["Privileged"] is privileged
    assert _has_all_of_ours(found["State"]["Pid"]) is privileged


def _has_all_of_ours(pid: int) -> bool:
    ours, its = (_capabilities(each) for each in ("self", str(pid)))
    return ours & ~its & ~(1 << 24) == 0  # without CAP_SYS_RESOURCE, which may be missing here


def _capabilities(pid: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))


TARGETS = {
    "/containers/create": 201,
    "/v1.41/containers/create": 201,
    "http://docker/containers/create": 201,
    "/%63ontainers/create": 201,
    "/containers%2Fcreate": 201,
    "//containers/create": 404,
    "/v1.41//containers/create": 404,
    "/v1.41/v1.41/containers/create": 404,
    "/images/../containers/create": 404,
    "/images/%2e%2e/containers/create": 404,
    "/containers/create/": 404,
    "/containers/create;a": 404,
    "/containers/create%00": 404,
    "/CONTAINERS/create": 404,
}


@pytest.mark.parametrize(("target", "status"), TARGETS.items(), ids=TARGETS)
def test_other_spellings_of_a_path_are_the_same_request_or_none(engine: Engine, target: str, status: int) -> None:
    """One body, one route: the ordinary checks hold on each (here that of a name), whatever the spelling."""
    bad = exchange(engine, create(SECRET, target=f"{target}?name=..%2Fx"))
    assert statuses(bad) == [400 if status == 201 else status]
    assert statuses(exchange(engine, create(SECRET, target=target))) == [status]
    assert len(containers(engine)) == (status == 201)


def test_an_override_of_the_method_is_none(engine: Engine) -> None:
    raw = create(SECRET, "X-HTTP-Method-Override: POST").replace(b"POST ", b"GET ", 1)
    assert statuses(exchange(engine, raw)) == [404]
    assert containers(engine) == []


def test_an_upgrade_to_http_2_is_not_taken(engine: Engine) -> None:
    lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    raw = create(SECRET, *lines).replace(b"Connection: close\r\n", b"")
    with connected(engine) as client:
        client.sendall(raw)
        assert statuses(until(client, b'"Warnings":[]}\n')) == [201]
    assert len(containers(engine)) == 1


def test_a_body_of_a_request_that_has_none_is_not_the_next_one(engine: Engine) -> None:
    hidden = create(SECRET)
    raw = f"GET /_ping HTTP/1.1\r\nHost: docker\r\nContent-Length: {len(hidden)}\r\n\r\n".encode() + hidden
    last = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"
    assert statuses(exchange(engine, raw + last)) == [200, 200]
    assert containers(engine) == []


def test_requests_in_a_row_are_answered_in_order(engine: Engine) -> None:
    """The control of the test before: what is a request of its own is done."""
    ping = b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"
    assert statuses(exchange(engine, ping + create(SECRET))) == [200, 201]
    assert len(containers(engine)) == 1
