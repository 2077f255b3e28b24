"""Bearer tokens: the built-in server, trusted issuers, and forgeries (battery H19)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bulkhead.errors import DataLoss, InvalidArgument
from bulkhead.registry.admission import AccessTable, IssuerTable
from bulkhead.registry.keys import KEPT, ROTATION, KeyRing
from tests.integration.registry.accounts import access, ask_token, basic, bearer, htpasswd, replace, token
from tests.integration.registry.wire import Peer, Reply, open_peer

SERVICE = "bulkhead-registry"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    table = access(tmp_path, tokens=True, anonymous_pull=True, audiences=["elsewhere"])
    async with open_peer(tmp_path / "registry", access=table) as peer:
        yield peer


async def ask_form(peer: Peer, **fields: str) -> Reply:
    return await peer.ask("POST", "/token", urlencode({"service": SERVICE, **fields}).encode(), FORM)


def claims(reply: Reply) -> dict[str, Any]:
    decoded: dict[str, Any] = jwt.decode(reply.json["token"], options={"verify_signature": False})
    return decoded


async def test_the_challenge_says_where_and_what_for(peer: Peer) -> None:
    realm = f'Bearer realm="{peer.base}/token",service="{SERVICE}"'
    assert (await peer.ask("GET", "/v2/")).headers["WWW-Authenticate"] == realm
    for method, path, scope in (
        ("GET", "/v2/team/app/manifests/x", "repository:team/app:pull"),
        ("POST", "/v2/team/app/blobs/uploads/", "repository:team/app:pull,push"),
        ("DELETE", "/v2/team/app/manifests/x", "repository:team/app:delete"),
    ):
        reply = await peer.ask(method, path)
        assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, f'{realm},scope="{scope}"')
    hostile = await peer.ask("GET", '/v2/team/a"b/manifests/x')
    assert hostile.headers["WWW-Authenticate"] == realm


@pytest.mark.parametrize("host", ['x"y', "a@b", "a/b", "a b"])
async def test_a_hostile_host_header_does_not_make_a_realm(peer: Peer, host: str) -> None:
    reply = await peer.ask("GET", "/v2/", headers={"Host": host})
    assert host not in reply.headers.get("WWW-Authenticate", "")
    assert reply.status in (400, 401)


async def test_a_token_allows_what_was_asked_and_permitted(peer: Peer) -> None:
    scopes = ("repository:team/app:pull,push,delete", "repository:base/os:* repository:secret/x:pull", "nonsense")
    reply = await ask_token(peer, "alice", *scopes)
    assert claims(reply)["access"] == [
        {"type": "repository", "name": "team/app", "actions": ["pull", "push"]},
        {"type": "repository", "name": "base/os", "actions": ["pull"]},
    ]
    assert reply.json["access_token"] == reply.json["token"]
    assert (reply.json["expires_in"], "refresh_token" in reply.json) == (300, False)
    assert reply.headers["Cache-Control"] == "no-store"
    header = bearer(reply.json["token"])
    assert (await peer.ask("GET", "/v2/", headers=header)).status == 200
    assert (await peer.ask("POST", "/v2/team/app/blobs/uploads/", headers=header)).status == 202
    for method, path in (
        ("DELETE", "/v2/team/app/manifests/x"),
        ("POST", "/v2/base/os/blobs/uploads/"),
        ("GET", "/v2/team/other/manifests/x"),
    ):
        refused = await peer.ask(method, path, headers=header)
        assert refused.status == 401
        assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]


async def test_nobody_gets_a_token_for_what_is_public(peer: Peer) -> None:
    header = await token(peer, "", "repository:public/x:pull,push repository:team/app:pull")
    assert (await peer.ask("GET", "/v2/", headers=header)).status == 200
    assert (await peer.ask("GET", "/v2/public/x/manifests/latest", headers=header)).status == 404
    assert (await peer.ask("POST", "/v2/public/x/blobs/uploads/", headers=header)).status == 401
    assert (await peer.ask("GET", "/v2/team/app/manifests/latest", headers=header)).status == 401


async def test_a_wrong_password_gets_no_token(peer: Peer) -> None:
    for user, password in (("alice", "wrong"), ("nobody", "alice!")):
        reply = await peer.ask("GET", f"/token?service={SERVICE}", headers=basic(user, password))
        assert (reply.status, reply.code) == (401, "UNAUTHORIZED")
        assert (await ask_form(peer, grant_type="password", username=user, password=password)).status == 401
    assert (await ask_form(peer, grant_type="magic")).status == 405
    assert (await peer.ask("POST", "/token", b"%ff&&&===", FORM)).status in (401, 405)
    assert (await peer.ask("POST", "/token", b"a" * 70_000, FORM)).status == 413


async def test_other_registries_tokens_are_made_where_that_is_wanted(peer: Peer) -> None:
    reply = await ask_token(peer, "alice", "repository:team/app:pull", service="elsewhere")
    assert claims(reply)["aud"] == "elsewhere"
    assert (await peer.ask("GET", "/v2/", headers=bearer(reply.json["token"]))).status == 401
    assert (await ask_token(peer, "alice", service="unknown")).status == 403


async def test_a_refresh_token_stands_for_the_password_until_that_changes(peer: Peer, tmp_path: Path) -> None:
    got = await ask_token(peer, "alice", offline_token="true")
    refresh = got.json["refresh_token"]
    form = {"grant_type": "refresh_token", "refresh_token": refresh, "scope": "repository:team/app:pull"}
    again = await ask_form(peer, **form)
    assert (again.status, again.json["refresh_token"], again.json["scope"]) == (200, refresh, form["scope"])
    header = bearer(again.json["access_token"])
    assert (await peer.ask("GET", "/v2/team/app/manifests/x", headers=header)).status == 404
    by_password = await ask_form(
        peer, grant_type="password", username="alice", password="alice!", access_type="offline", scope=form["scope"]
    )
    assert by_password.json["refresh_token"]
    assert (await peer.ask("GET", "/v2/", headers=bearer(refresh))).status == 401
    assert (await ask_form(peer, **{**form, "refresh_token": again.json["access_token"]})).status == 401
    htpasswd(tmp_path / "htpasswd", alice="changed")
    assert (await ask_form(peer, **form)).status == 401


async def test_a_right_that_is_taken_away_is_gone_from_tokens_too(peer: Peer, tmp_path: Path) -> None:
    header = await token(peer, "bob", "repository:ci/job:pull,push", "registry:catalog:*")
    path = "/v2/ci/job/manifests/x"
    assert (await peer.ask("GET", path, headers=header)).status == 404
    rights = (tmp_path / "rights.toml").read_text()
    replace(tmp_path / "rights.toml", rights.replace('["bob"]', '["carol"]'))
    assert (await peer.ask("GET", path, headers=header)).status == 401
    replace(tmp_path / "rights.toml", rights)
    assert (await peer.ask("GET", path, headers=header)).status == 404
    htpasswd(tmp_path / "htpasswd", alice="alice!")
    gone = await peer.ask("GET", "/v2/", headers=header)
    assert (gone.status, 'error="invalid_token"' in gone.headers["WWW-Authenticate"]) == (401, True)


async def test_tokens_survive_a_restart(tmp_path: Path) -> None:
    table = access(tmp_path, tokens=True)
    async with open_peer(tmp_path / "registry", access=table) as peer:
        header = await token(peer, "alice", "repository:team/app:pull,push")
        location = (await peer.ask("POST", "/v2/team/app/blobs/uploads/", headers=header)).headers["Location"]
    async with open_peer(tmp_path / "registry", access=table) as peer:
        assert (await peer.ask("PATCH", location, b"abc", headers=header)).status == 202
        mode = (tmp_path / "registry/access").stat().st_mode
        assert mode & 0o077 == 0


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _by_hand(header: dict[str, Any], payload: dict[str, Any], secret: bytes = b"") -> str:
    """A token as no library would make it."""
    text = f"{_b64(json.dumps(header).encode())}.{_b64(json.dumps(payload).encode())}"
    return f"{text}.{_b64(hmac.digest(secret, text.encode(), 'sha256')) if secret else ''}"


async def test_forged_tokens_open_nothing(peer: Peer, tmp_path: Path) -> None:
    real = (await ask_token(peer, "alice", "repository:team/app:pull")).json["token"]
    header, payload = jwt.get_unverified_header(real), jwt.decode(real, options={"verify_signature": False})
    jwk = (await peer.ask("GET", "/token/keys")).json["keys"][0]
    own = ec.generate_private_key(ec.SECP256R1())
    own_jwk = jwt.algorithms.ECAlgorithm.to_jwk(own.public_key(), as_dict=True)
    point = jwt.PyJWK(jwk).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def signed(kid: str = header["kid"], extra: dict[str, Any] | None = None, **changed: Any) -> str:
        return jwt.encode({**payload, **changed}, own, "ES256", headers={"kid": kid, **(extra or {})})

    forgeries = {
        "alg none": _by_hand({**header, "alg": "none"}, payload),
        "HMAC with the public key": _by_hand({**header, "alg": "HS256"}, payload, point),
        "another key under our name": signed(),
        "a key of its own": signed(extra={"jwk": own_jwk}),
        "a name that is a path": signed(kid="../../../../dev/null"),
        "an empty name": signed(kid=""),
        "an address of keys": signed(kid="x", extra={"jku": "http://127.0.0.1:1/"}),
        "a certificate of its own": signed(extra={"x5c": ["MIIB"]}),
        "more rights": ".".join(
            [real.split(".")[0], _b64(json.dumps({**payload, "sub": "root"}).encode()), real.split(".")[2]]
        ),
        "cut off": real[:-4],
        "not a token": "abc",
        "two dots": "..",
        "long": "a" * 6000,
    }
    for name, forged in forgeries.items():
        reply = await peer.ask("GET", "/v2/team/app/manifests/x", headers=bearer(forged))
        assert (reply.status, name) == (401, name)
        assert 'error="invalid_token"' in reply.headers["WWW-Authenticate"]
    assert (await peer.ask("GET", "/v2/team/app/manifests/x", headers=bearer(real))).status == 404


async def test_our_keys_sign_only_for_their_time_and_place(tmp_path: Path) -> None:
    """With the real key: wrong audience, issuer, expired, not yet valid, without an end."""
    async with open_peer(tmp_path / "registry", access=access(tmp_path, tokens=True)) as peer:
        ring = KeyRing(tmp_path / "registry/access/keys")
        ring.open()
        now = int(time.time())
        good = {"iss": SERVICE, "aud": SERVICE, "sub": "alice", "exp": now + 60, "nbf": now - 1, "access": []}
        wrong: list[dict[str, Any]] = [
            {"aud": "elsewhere"},
            {"iss": "elsewhere"},
            {"exp": now - 1},
            {"nbf": now + 100},
            {"exp": None},
            {"sub": "nobody"},
            {"use": "refresh"},
            {"access": "all"},
        ]
        for change in ({}, *wrong):
            payload = {key: value for key, value in {**good, **change}.items() if value is not None}
            made = jwt.encode(payload, ring.current.private, "ES256", headers={"kid": ring.current.id})
            reply = await peer.ask("GET", "/v2/", headers=bearer(made))
            assert reply.status == (401 if change else 200), change


Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def _issued(key: Private, algorithm: str, kid: str | None = None, **changed: Any) -> str:
    now = int(time.time())
    scope = {"type": "repository", "name": "team/app", "actions": ["pull"]}
    payload = {"iss": "https://issuer", "aud": "images", "sub": "someone", "exp": now + 60, "access": [scope]}
    return jwt.encode({**payload, **changed}, key, algorithm, headers={"kid": kid} if kid else None)


async def test_trusted_issuers(tmp_path: Path) -> None:
    """By PEM or JWKS, by the algorithm that fits the key, until the file no longer has it."""
    keys: list[tuple[Private, str]] = [
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ]
    pem = "".join(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() for key, _ in keys
    )
    replace(tmp_path / "keys", pem)
    issuer = IssuerTable(name="https://issuer", keys=str(tmp_path / "keys"), audience="images")
    table = AccessTable(issuers=[issuer], realm="https://issuer/token", service="images")
    async with open_peer(tmp_path / "registry", access=table) as peer:
        challenge = (await peer.ask("GET", "/v2/")).headers["WWW-Authenticate"]
        assert challenge == 'Bearer realm="https://issuer/token",service="images"'
        path = "/v2/team/app/manifests/x"
        for key, algorithm in keys:
            made = _issued(key, algorithm)
            assert (await peer.ask("GET", path, headers=bearer(made))).status == 404
            assert (await peer.ask("DELETE", path, headers=bearer(made))).status == 401
            assert (await peer.ask("GET", "/v2/_catalog", headers=bearer(made))).status == 401
            for change in ({"aud": "others"}, {"iss": "https://other"}, {"exp": 1}):
                assert (await peer.ask("GET", path, headers=bearer(_issued(key, algorithm, **change)))).status == 401
        stranger = _issued(ec.generate_private_key(ec.SECP384R1()), "ES384")
        assert (await peer.ask("GET", path, headers=bearer(stranger))).status == 401
        key, algorithm = keys[0]
        assert isinstance(key, rsa.RSAPrivateKey)
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        replace(tmp_path / "keys", json.dumps({"keys": [{**jwk, "kid": "one"}]}))
        assert (await peer.ask("GET", path, headers=bearer(_issued(key, algorithm, "one")))).status == 404
        assert (await peer.ask("GET", path, headers=bearer(_issued(key, algorithm, "two")))).status == 401
        assert (await peer.ask("GET", path, headers=bearer(_issued(*keys[1], "one")))).status == 401


@pytest.mark.parametrize("text", ["", "nothing", "{}", '{"keys":[]}', "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END"])
async def test_keys_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    table = AccessTable(issuers=[IssuerTable(name="x", keys=str(tmp_path / "keys"))], realm="https://x/")
    with pytest.raises(InvalidArgument, match="cannot use"):
        async with open_peer(tmp_path / "registry", access=table):
            pass


async def test_a_private_or_symmetric_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    symmetric = json.dumps({"keys": [{"kty": "oct", "k": _b64(hashlib.sha256(b"x").digest()), "alg": "HS256"}]})
    for text in (pem, symmetric):
        (tmp_path / "keys").write_text(text)
        table = AccessTable(issuers=[IssuerTable(name="x", keys=str(tmp_path / "keys"))], realm="https://x/")
        with pytest.raises(InvalidArgument, match="cannot use"):
            async with open_peer(tmp_path / "registry", access=table):
                pass


def test_keys_are_replaced_in_time_and_kept_while_needed(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    ring = KeyRing(tmp_path / "keys", clock=lambda: now[0])
    ring.open()
    first = ring.current
    assert not ring.due
    now[0] += ROTATION
    assert ring.due
    ring.rotate()
    assert ring.current.id != first.id
    assert ring.find(first.id) is not None
    again = KeyRing(tmp_path / "keys", clock=lambda: now[0])
    again.open()
    assert (again.current.id, len(again.jwks["keys"])) == (ring.current.id, 2)
    assert (tmp_path / "keys/bundle.pem").read_text().count("BEGIN CERTIFICATE") == 2
    now[0] += KEPT
    again.rotate()
    assert again.find(first.id) is None
    files = [path for path in (tmp_path / "keys").iterdir() if path.name != "bundle.pem"]
    assert len(files) == len(again.jwks["keys"])
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_a_damaged_key_is_said(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    ring.open()
    next(path for path in (tmp_path / "keys").iterdir() if path.name != "bundle.pem").write_text("x")
    with pytest.raises(DataLoss, match="damaged"):
        KeyRing(tmp_path / "keys").open()
