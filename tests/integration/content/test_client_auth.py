"""Credentials reach the registry and a trustworthy realm, and nobody else (battery H12)."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web
from yarl import URL

from bulkhead.content import hosts
from bulkhead.content.auth import Credentials, parse_challenges
from bulkhead.content.client import Registry
from bulkhead.content.store import BlobStore
from bulkhead.errors import BulkheadError, InvalidArgument, NotFound, Unauthorized
from tests.integration.content.peers import IMPATIENT, Answer, Scripted, descriptor, image_of, named

ALICE = Credentials(username="alice", password="secret")
BASIC = "Basic " + base64.b64encode(b"alice:secret").decode()
IMAGE = image_of(b"layer")


def registry_with_tokens(realm: str | None = None, *, token: str = "good") -> Answer:
    """A registry that wants a bearer token from `realm`, by default its own."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/token":
            return web.json_response({"token": "good", "expires_in": 300})
        where = realm or f"http://{request.host}/token"
        if request.headers.get("Authorization") == f"Bearer {token}":
            return web.Response(body=b"{}" if request.path == "/v2/" else IMAGE.manifest)
        challenge = f'Bearer realm="{where}",service="test",scope="repository:app:pull"'
        return web.json_response(
            {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]},
            status=401,
            headers={"WWW-Authenticate": challenge},
        )

    return answer


async def test_a_token_is_asked_of_the_registrys_own_realm() -> None:
    async with Scripted(registry_with_tokens()).serving() as peer:
        async with Registry(peer.address, auth=ALICE, patience=IMPATIENT) as registry:
            assert (await registry.manifest(named(peer.address))).digest == IMAGE.digest
            assert (await registry.manifest(named(peer.address))).digest == IMAGE.digest
    asked = [(path, header) for _, path, header in peer.seen if path.startswith("/token")]
    assert len(asked) == 1, "the token is used again"
    query = parse_qs(urlsplit(asked[0][0]).query)
    assert query == {"service": ["test"], "scope": ["repository:app:pull"], "account": ["alice"]}
    assert asked[0][1] == BASIC


async def test_an_anonymous_token_is_asked_without_a_password() -> None:
    async with Scripted(registry_with_tokens()).serving() as peer:
        async with Registry(peer.address, patience=IMPATIENT) as registry:
            await registry.manifest(named(peer.address))
    assert peer.authorizations() == ["Bearer good"]


async def test_an_identity_token_is_exchanged_by_oauth() -> None:
    forms: list[dict[str, Any]] = []
    inner = registry_with_tokens()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST":
            forms.append(dict(await request.post()))
            return web.json_response({"access_token": "good"})
        return await inner(request)

    async with Scripted(answer).serving() as peer:
        auth = Credentials(identity_token="refresh")
        async with Registry(peer.address, auth=auth, patience=IMPATIENT) as registry:
            await registry.manifest(named(peer.address))
    assert forms == [
        {
            "grant_type": "refresh_token",
            "refresh_token": "refresh",
            "service": "test",
            "client_id": "bulkhead",
            "scope": "repository:app:pull",
        }
    ]


async def test_a_registry_token_is_sent_as_it_is() -> None:
    async with Scripted(registry_with_tokens(token="mine")).serving() as peer:
        auth = Credentials(registry_token="mine")
        async with Registry(peer.address, auth=auth, patience=IMPATIENT) as registry:
            await registry.manifest(named(peer.address))
    assert set(peer.authorizations()) == {"Bearer mine"}


async def test_an_expired_token_is_replaced_once() -> None:
    tokens = iter(["old", "new", "newest"])
    accepted = {"old", "new"}

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/token":
            return web.json_response({"token": next(tokens)})
        header = request.headers.get("Authorization", "")
        if header.removeprefix("Bearer ") in accepted:
            return web.Response(body=b"{}" if request.path == "/v2/" else IMAGE.manifest)
        challenge = f'Bearer realm="http://{request.host}/token",service="test"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with Scripted(answer).serving() as peer:
        async with Registry(peer.address, patience=IMPATIENT) as registry:
            await registry.manifest(named(peer.address))
            accepted.discard("old")
            await registry.manifest(named(peer.address))
            accepted.discard("new")
            accepted.discard("newest")
            with pytest.raises(Unauthorized, match="unauthorized: authentication required"):
                await registry.manifest(named(peer.address))


async def test_basic_goes_to_a_registry_that_asks_for_it() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Authorization") != BASIC:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="test"'})
        return web.Response(body=b"{}" if request.path == "/v2/" else IMAGE.manifest)

    async with Scripted(answer).serving() as peer:
        async with Registry(peer.address, auth=ALICE, patience=IMPATIENT) as registry:
            await registry.manifest(named(peer.address))
        async with Registry(peer.address, patience=IMPATIENT) as registry:
            with pytest.raises(Unauthorized, match="no basic auth credentials"):
                await registry.manifest(named(peer.address))


async def test_nothing_is_told_to_a_registry_that_does_not_ask() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"{}" if request.path == "/v2/" else IMAGE.manifest)

    async with Scripted(answer).serving() as peer:
        async with Registry(peer.address, auth=ALICE, patience=IMPATIENT) as registry:
            await registry.manifest(named(peer.address))
    assert peer.authorizations() == []


@pytest.mark.parametrize(
    "realm",
    [
        "http://{other}/token",
        "http://registry.invalid/token",
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254/token",
        "https://[fe80::1]/token",
        "https://metadata.google.internal/token",
        "https://alice:secret@{other}/token",
        "file:///etc/passwd",
        "ftp://{other}/token",
        "gopher://{other}/",
        "//{other}/token",
        "token",
        "",
        "http://{self}@{other}/token",
    ],
)
async def test_a_realm_that_is_not_to_be_trusted_gets_nothing(realm: str) -> None:
    async def other(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"token": "good"})

    async with Scripted(other).serving() as thief:
        inner: list[Answer] = []

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return await inner[0](request)

        async with Scripted(answer).serving() as peer:
            where = realm.format(other=thief.address, self=peer.address)
            inner.append(registry_with_tokens(where or " "))
            async with Registry(peer.address, auth=ALICE, patience=IMPATIENT) as registry:
                with pytest.raises(Unauthorized, match="realm"):
                    await registry.manifest(named(peer.address))
        assert thief.seen == []
        assert peer.authorizations() == []


async def test_a_realm_may_not_send_us_on() -> None:
    async def thief_answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"token": "good"})

    async with Scripted(thief_answer).serving() as thief:
        inner = registry_with_tokens()

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            if request.path == "/token":
                return web.Response(status=307, headers={"Location": f"http://{thief.address}/token"})
            return await inner(request)

        async with Scripted(answer).serving() as peer:
            async with Registry(peer.address, auth=ALICE, patience=IMPATIENT) as registry:
                with pytest.raises(Unauthorized):
                    await registry.manifest(named(peer.address))
        assert thief.seen == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_blob_may_lie_elsewhere_but_elsewhere_learns_no_password(store: BlobStore, status: int) -> None:
    blob = b"the blob"

    async def elsewhere(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=blob)

    async with Scripted(elsewhere).serving() as other:

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            if request.headers.get("Authorization") != BASIC:
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="test"'})
            if request.path == "/v2/":
                return web.Response(body=b"{}")
            location = f"http://{other.address}/signed?key=a%2Fb%3D"
            return web.Response(status=status, headers={"Location": location})

        async with Scripted(answer).serving() as peer:
            async with Registry(peer.address, auth=ALICE, patience=IMPATIENT) as registry:
                await registry.pull_blob("app", descriptor(blob), store)
        assert other.seen == [("GET", "/signed?key=a%2Fb%3D", None)], "the signature arrives as it was written"


@pytest.mark.parametrize(
    "location",
    [
        "http://registry.invalid/blob",
        "http://169.254.169.254/latest",
        "https://169.254.169.254/latest",
        "file:///etc/passwd",
        "http://alice:secret@127.0.0.1/blob",
    ],
)
async def test_a_registry_cannot_send_us_to_where_we_must_not_go(store: BlobStore, location: str) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v2/":
            return web.Response(body=b"{}")
        return web.Response(status=307, headers={"Location": location})

    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
        with pytest.raises(InvalidArgument, match="cannot follow registry"):
            await registry.pull_blob("app", descriptor(b"x"), store)


async def test_a_circle_of_redirects_ends(store: BlobStore) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v2/":
            return web.Response(body=b"{}")
        return web.Response(status=307, headers={"Location": request.path})

    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
        with pytest.raises(InvalidArgument, match="more than 5 redirects"):
            await registry.pull_blob("app", descriptor(b"x"), store)


async def test_an_upload_sent_elsewhere_goes_without_the_password(tmp_path: Path) -> None:
    async def elsewhere(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        return web.Response(status=202 if request.method == "PATCH" else 201, headers={"Location": request.path})

    blob = tmp_path / "blob"
    blob.write_bytes(b"content")
    async with Scripted(elsewhere).serving() as other:

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            if request.headers.get("Authorization") != BASIC:
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="test"'})
            if request.path == "/v2/":
                return web.Response(body=b"{}")
            if request.method == "HEAD":
                return web.Response(status=404)
            return web.Response(status=202, headers={"Location": f"http://{other.address}/upload"})

        async with Scripted(answer).serving() as peer:
            async with Registry(peer.address, auth=ALICE, patience=IMPATIENT) as registry:
                await registry.push_blob("app", descriptor(b"content").digest, blob)
        assert {method for method, _, _ in other.seen} == {"PATCH", "PUT"}
        assert other.authorizations() == []


async def test_urls_in_a_manifest_are_not_followed(store: BlobStore) -> None:
    """Foreign layers name places of their own: a registry must not choose what we fetch."""

    async def thief_answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"layer")

    async with Scripted(thief_answer).serving() as thief:
        manifest = json.loads(IMAGE.manifest)
        manifest["layers"][0]["urls"] = [f"http://{thief.address}/layer"]
        body = json.dumps(manifest).encode()

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            if request.path == "/v2/":
                return web.Response(body=b"{}")
            if "/manifests/" in request.path:
                return web.Response(body=body)
            return web.json_response({"errors": [{"code": "BLOB_UNKNOWN", "message": "no"}]}, status=404)

        async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
            found = await registry.manifest(named(peer.address))
            for layer in getattr(found.document, "layers", ()):
                with pytest.raises(NotFound, match="blob unknown"):
                    await registry.pull_blob("app", layer, store)
        assert thief.seen == []


async def test_a_denied_scope_reads_as_dockers_text() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/token":
            return web.json_response({"token": "weak"})
        challenge = f'Bearer realm="http://{request.host}/token",service="s",error="insufficient_scope"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
        with pytest.raises(NotFound) as caught:
            await registry.manifest(named(peer.address))
    assert str(caught.value) == (
        f"pull access denied for {peer.address}/app, repository does not exist or may require 'docker login': "
        "denied: requested access to the resource is denied"
    )


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"token": 7}', b'{"token": "a\\nb"}', b"x" * 200_000])
async def test_a_token_that_cannot_be_used_is_an_error(body: bytes) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/token":
            return web.Response(body=body)
        challenge = f'Bearer realm="http://{request.host}/token",service="s"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
        with pytest.raises(Unauthorized, match="cannot log in to"):
            await registry.manifest(named(peer.address))


async def test_mirrors_learn_no_password() -> None:
    async with Scripted(registry_with_tokens(token="never")).serving() as mirror:
        async with Scripted(registry_with_tokens()).serving() as peer:
            mirrors = (f"http://{mirror.address}",)
            async with Registry(peer.address, auth=ALICE, mirrors=mirrors, patience=IMPATIENT) as registry:
                await registry.manifest(named(peer.address))
        assert BASIC not in mirror.authorizations()


@pytest.mark.parametrize(
    ("authority", "insecure", "expected"),
    [
        ("localhost", (), True),
        ("localhost:5000", (), True),
        ("127.9.9.9:80", (), True),
        ("[::1]:5000", (), True),
        ("10.1.2.3:5000", (), False),
        ("10.1.2.3:5000", ("10.0.0.0/8",), True),
        ("10.1.2.3:5000", ("10.1.2.3:5000",), True),
        ("10.1.2.3:5000", ("10.1.2.3:5001",), False),
        ("registry.example", ("registry.example",), True),
        ("localhost.example", (), False),
        ("127.0.0.1.example", (), False),
    ],
)
def test_which_hosts_are_insecure(authority: str, insecure: tuple[str, ...], expected: bool) -> None:
    assert hosts.is_insecure(authority, insecure) is expected


@pytest.mark.parametrize("url", ["https://registry.example/x", "http://127.0.0.1:5000/x"])
def test_where_a_registry_may_send_us(url: str) -> None:
    hosts.check_destination(URL(url), ())


def test_challenges_are_read_as_they_come() -> None:
    found = parse_challenges(
        ['Bearer realm="https://a/t",service="s, t",scope="repository:a:pull,push"', "Basic realm=x"]
    )
    assert found["bearer"].parameters == {"realm": "https://a/t", "service": "s, t", "scope": "repository:a:pull,push"}
    assert found["basic"].parameters == {"realm": "x"}
    assert parse_challenges(["", "   ", "\x00"]).keys() <= {"", "\x00"}


async def test_errors_never_hold_a_password() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(0)
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    async with Scripted(answer).serving() as peer, Registry(peer.address, auth=ALICE, patience=IMPATIENT) as registry:
        with pytest.raises(BulkheadError) as caught:
            await registry.manifest(named(peer.address))
    assert "secret" not in str(caught.value) + repr(ALICE)
