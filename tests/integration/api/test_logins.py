"""`docker login`: the registry is asked, and the password goes nowhere else."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from bulkhead.api.adapters.logins import RegistryLogins
from bulkhead.errors import Unauthorized, Unavailable
from tests.integration.api.conftest import Fake

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
            return web.json_response({"token": "t"}) if given == RIGHT else web.Response(status=401)
        if given == RIGHT and self.challenge.startswith("Basic"):
            return web.json_response({})
        return web.Response(status=401, headers={"WWW-Authenticate": self.challenge})


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


@pytest.mark.parametrize("bearer", [False, True])
async def test_right_and_wrong_passwords(registry: Registry, bearer: bool) -> None:
    if bearer:
        registry.challenge = f'Bearer realm="http://{registry.host}/token",service="r"'
    logins = RegistryLogins(())
    assert await logins.check(registry.host, "user", "right") == ""
    with pytest.raises(Unauthorized, match=r"login attempt to http://.*/v2/ failed with status: 401"):
        await logins.check(registry.host, "user", "wrong")


async def test_the_first_question_carries_no_password(registry: Registry) -> None:
    await RegistryLogins(()).check(registry.host, "user", "right")
    assert registry.seen[0] == ("/v2/", "")


async def test_an_unsafe_token_service_is_not_asked(registry: Registry) -> None:
    registry.challenge = 'Bearer realm="http://192.0.2.1/token",service="r"'
    with pytest.raises(Unavailable, match="unsafe token service"):
        await RegistryLogins(()).check(registry.host, "user", "right")


async def test_a_registry_that_is_away() -> None:
    with pytest.raises(Unavailable, match=r"cannot log in to 127\.0\.0\.1:1: "):
        await RegistryLogins(()).check("127.0.0.1:1", "user", "right")


async def test_login_over_the_api(fake: Fake, registry: Registry) -> None:
    body = {"username": "user", "password": "right", "serveraddress": registry.host}
    reply = await fake.call("POST", "/auth", body)
    assert (reply.status, reply.json) == (200, {"Status": "Login Succeeded", "IdentityToken": ""})
    refused = await fake.call("POST", "/auth", {**body, "password": "wrong"})
    assert refused.status == 401
    assert "right" not in json.dumps(refused.json)
