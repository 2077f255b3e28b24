"""`docker login`: the registry is asked, and the password goes nowhere else."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from bulkhead.content.auth import Credentials
from bulkhead.content.store import BlobStore
from bulkhead.content.transport import Transport
from bulkhead.errors import InvalidArgument, Unauthorized, Unavailable
from bulkhead.manager.adapters.registries import HttpRegistries
from bulkhead.manager.images.login import Login, registry_host

RIGHT = "Basic " + base64.b64encode(b"user:right").decode()


@dataclass
class Registry:
    """A registry that wants credentials, and sees what it is sent."""

    challenge: str = 'Basic realm="x"'
    host: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        self.seen.append((request.path, given))
        if request.path == "/token":
            return await self._token(request, given)
        if given == (RIGHT if self.challenge.startswith("Basic") else "Bearer t"):
            return web.json_response({})
        return web.Response(status=401, headers={"WWW-Authenticate": self.challenge})

    async def _token(self, request: web.BaseRequest, given: str) -> web.StreamResponse:
        form = await request.post()
        if given != RIGHT and form.get("refresh_token") != "stands for it":
            return web.Response(status=401)
        offline = request.query.get("offline_token") == "true"
        return web.json_response({"token": "t"} | ({"refresh_token": "stands for it"} if offline else {}))


async def check(server: str, **given: str) -> str:
    registries = HttpRegistries(store=BlobStore(Path("/nowhere")), mirrors=(), transport=Transport())
    return await Login(registries).check(server, Credentials(**given))  # type: ignore[arg-type]


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    made = Registry()
    runner = web.ServerRunner(web.Server(made.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    made.host = f"{host}:{port}"
    yield made
    await runner.cleanup()


async def test_right_and_wrong_passwords(registry: Registry) -> None:
    assert await check(registry.host, username="user", password="right") == ""
    with pytest.raises(Unauthorized, match=r"login attempt to http://.*/v2/ failed with status: 401"):
        await check(registry.host, username="user", password="wrong")


async def test_a_token_service_gives_what_stands_for_the_password(registry: Registry) -> None:
    registry.challenge = f'Bearer realm="http://{registry.host}/token",service="r"'
    token = await check(registry.host, username="user", password="right")
    assert token == "stands for it"
    assert await check(registry.host, identity_token=token) == ""
    with pytest.raises(Unauthorized):
        await check(registry.host, username="user", password="wrong")
    with pytest.raises(Unauthorized):
        await check(registry.host, identity_token="another")


async def test_the_first_question_carries_no_password(registry: Registry) -> None:
    await check(registry.host, username="user", password="right")
    assert registry.seen[0] == ("/v2/", "")


async def test_an_unsafe_token_service_is_not_asked(registry: Registry) -> None:
    registry.challenge = 'Bearer realm="http://192.0.2.1/token",service="r"'
    with pytest.raises(Unauthorized, match="realm"):
        await check(registry.host, username="user", password="right")


async def test_a_registry_that_is_away() -> None:
    with pytest.raises(Unavailable, match="connection refused"):
        await check("127.0.0.1:1", username="user", password="right")


@pytest.mark.parametrize(
    ("server", "host"),
    [
        ("", "docker.io"), ("https://index.docker.io/v1/", "docker.io"), ("reg.example:5000", "reg.example:5000"),
        ("https://reg.example/v2/", "reg.example"), ("reg.example/path", "reg.example"), ("[::1]:5000", "[::1]:5000"),
    ],
)  # fmt: skip
def test_server_addresses(server: str, host: str) -> None:
    assert registry_host(server) == host


@pytest.mark.parametrize("server", ["http://u@h/", "a b", "h\r\nx", "user@evil host"])
def test_what_is_no_server_address(server: str) -> None:
    with pytest.raises(InvalidArgument):
        registry_host(server)
