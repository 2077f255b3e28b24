"""Who may do what: passwords, rights, limits, owners of uploads (battery H16, H17, H20, H21, H29)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bulkhead.errors import InvalidArgument
from bulkhead.model.digest import Digest
from bulkhead.registry.admission import AccessTable, LimitsTable, check
from bulkhead.registry.limits import Rates
from tests.integration.registry.accounts import RIGHTS, access, basic, htpasswd, replace
from tests.integration.registry.wire import CONFIG, LAYER, UNKNOWN, Peer, Reply, manifest_of, open_peer


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    """A registry with passwords and rights, filled by its root user."""
    async with open_peer(tmp_path / "registry", access=access(tmp_path, anonymous_pull=True)) as peer:
        for repository in ("team/app", "base/os", "ci/job", "public/hello", "secret/deep/app"):
            await fill(peer, repository, "root")
        yield peer


async def put_blob(peer: Peer, repository: str, data: bytes, user: str) -> Reply:
    path = f"/v2/{repository}/blobs/uploads/?digest={Digest.of(data)}"
    return await peer.ask("POST", path, data, headers=basic(user))


async def fill(peer: Peer, repository: str, user: str) -> Digest:
    for blob in (CONFIG, LAYER):
        assert (await put_blob(peer, repository, blob, user)).status == 201
    headers = {"Content-Type": "application/vnd.oci.image.manifest.v1+json", **basic(user)}
    reply = await peer.ask("PUT", f"/v2/{repository}/manifests/latest", manifest_of(), headers)
    assert reply.status == 201, reply.body
    return Digest.of(manifest_of())


async def test_nobody_in_particular_is_asked_for_a_password(peer: Peer) -> None:
    reply = await peer.ask("GET", "/v2/")
    assert (reply.status, reply.code) == (401, "UNAUTHORIZED")
    assert reply.headers["WWW-Authenticate"] == 'Basic realm="bulkhead-registry"'
    assert reply.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert (await peer.ask("GET", "/v2/", headers=basic("alice"))).status == 200
    assert (await peer.ask("GET", "/healthz")).status == 200


@pytest.mark.parametrize(
    "header",
    [
        basic("alice", "wrong"),
        basic("alice", ""),
        basic("alice", "alice!" + "\0"),
        basic("nobody", "alice!"),
        basic("", "x"),
        {"Authorization": "Basic not-base64"},
        {"Authorization": "Basic"},
        {"Authorization": "Bearer abc"},
        {"Authorization": "Digest x"},
        {"Authorization": "Basic " + "A" * 7000},
    ],
)
async def test_wrong_credentials_are_wrong_everywhere(peer: Peer, header: dict[str, str]) -> None:
    """Also where none were needed: a client with a stale password must hear of it."""
    for path in ("/v2/", "/v2/public/hello/manifests/latest", "/v2/team/app/manifests/latest"):
        assert (await peer.ask("GET", path, headers=header)).status == 401, path


# For each object: method, path, and the action it takes.
REQUESTS = [
    ("GET", "/v2/{name}/manifests/latest", "pull"),
    ("HEAD", "/v2/{name}/manifests/none", "pull"),
    ("GET", f"/v2/{{name}}/blobs/{UNKNOWN}", "pull"),
    ("GET", "/v2/{name}/tags/list", "pull"),
    ("GET", f"/v2/{{name}}/referrers/{UNKNOWN}", "pull"),
    ("POST", "/v2/{name}/blobs/uploads/", "push"),
    ("PATCH", "/v2/{name}/blobs/uploads/none", "push"),
    ("PUT", "/v2/{name}/blobs/uploads/none", "push"),
    ("GET", "/v2/{name}/blobs/uploads/none", "push"),
    ("DELETE", "/v2/{name}/blobs/uploads/none", "push"),
    ("PUT", "/v2/{name}/manifests/latest", "push"),
    ("PUT", f"/v2/{{name}}/manifests/{UNKNOWN}?tag=latest", "push"),
    ("DELETE", "/v2/{name}/manifests/none", "delete"),
    ("DELETE", f"/v2/{{name}}/manifests/{UNKNOWN}", "delete"),
    ("DELETE", f"/v2/{{name}}/blobs/{UNKNOWN}", "delete"),
]
MAY = {
    ("alice", "team/app"): {"pull", "push"},
    ("alice", "base/os"): {"pull"},
    ("alice", "public/hello"): {"pull", "push", "delete"},
    ("bob", "ci/job"): {"pull", "push", "delete"},
    ("bob", "team/app"): set(),
    ("carol", "base/os"): {"pull"},
    ("carol", "base/os/deeper"): set(),
    ("carol", "ci/job"): set(),
    ("carol", "secret/deep/app"): set(),
    ("root", "secret/deep/app"): {"pull", "push", "delete"},
    ("", "public/hello"): {"pull"},
    ("", "base/os"): set(),
}


@pytest.mark.parametrize(("user", "name"), MAY)
async def test_each_request_takes_its_own_right(peer: Peer, user: str, name: str) -> None:
    """Battery H17: a right to push is none to delete, whatever the object is called by."""
    for method, path, action in REQUESTS:
        reply = await peer.ask(method, path.format(name=name), headers=basic(user) if user else {})
        passed = reply.status not in (401, 403)
        assert passed == (action in MAY[user, name]), (method, path, reply.status)
        if not passed:
            assert reply.status == (403 if user else 401)


async def test_the_catalog_shows_what_one_may_pull(peer: Peer) -> None:
    seen = {}
    for user in ("root", "alice", "bob", "carol"):
        seen[user] = (await peer.ask("GET", "/v2/_catalog", headers=basic(user))).json["repositories"]
    assert seen["alice"] == ["base/os", "public/hello", "team/app"]
    assert seen["bob"] == ["base/os", "ci/job", "public/hello"]
    assert seen["carol"] == ["base/os", "public/hello"]
    assert len(seen["root"]) == 5
    page = await peer.ask("GET", "/v2/_catalog?n=1&last=base/os", headers=basic("alice"))
    assert page.json["repositories"] == ["public/hello"]
    assert "last=public%2Fhello" in page.headers["Link"]
    last = await peer.ask("GET", "/v2/_catalog?n=1&last=public/hello", headers=basic("carol"))
    assert (last.json["repositories"], "Link" in last.headers) == ([], False)


async def test_nothing_is_mounted_from_where_one_may_not_read(peer: Peer) -> None:
    """Battery H16: answered as if the blob were not there."""
    digest = Digest.of(LAYER)
    for source, status in (("secret/deep/app", 202), ("no/such", 202), ("base/os", 201)):
        reply = await peer.ask(
            "POST", f"/v2/team/new/blobs/uploads/?mount={digest}&from={source}", headers=basic("alice")
        )
        assert reply.status == status, source
        assert (await peer.ask("HEAD", f"/v2/team/other/blobs/{digest}", headers=basic("alice"))).status == 404


async def test_an_upload_is_its_owners(peer: Peer) -> None:
    """Battery H21: who learns of a session of somebody else's can neither read, fill nor end it."""
    started = await peer.ask("POST", "/v2/public/hello/blobs/uploads/", headers=basic("alice"))
    location = started.headers["Location"]
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        stolen = await peer.ask(method, location, b"x" if method == "PATCH" else None, headers=basic("bob"))
        assert (stolen.status, method) == (404, method)
    assert (await peer.ask("GET", location.partition("?")[0], headers=basic("alice"))).status == 404
    appended = await peer.ask("PATCH", location, LAYER, headers=basic("alice"))
    assert appended.status == 202
    status = await peer.ask("GET", appended.headers["Location"], headers=basic("alice"))
    assert (status.status, status.headers["Range"]) == (204, f"0-{len(LAYER) - 1}")
    last = f"{status.headers['Location']}&digest={Digest.of(LAYER)}"
    assert (await peer.ask("PUT", last, headers=basic("alice"))).status == 201


async def test_deletes_that_are_off_are_off_for_everybody(tmp_path: Path) -> None:
    async with open_peer(tmp_path / "registry", delete=False, access=access(tmp_path)) as peer:
        assert (await peer.ask("DELETE", "/v2/team/app/manifests/latest")).status == 401
        for path in ("manifests/latest", f"manifests/{UNKNOWN}", f"blobs/{UNKNOWN}"):
            assert (await peer.ask("DELETE", f"/v2/team/app/{path}", headers=basic("root"))).status == 405


async def test_changed_files_are_used_at_once_and_broken_ones_not(peer: Peer, tmp_path: Path) -> None:
    path = "/v2/team/app/manifests/latest"
    assert (await peer.ask("GET", path, headers=basic("alice"))).status == 200
    htpasswd(tmp_path / "htpasswd", alice="new")
    assert (await peer.ask("GET", path, headers=basic("alice"))).status == 401
    assert (await peer.ask("GET", path, headers=basic("alice", "new"))).status == 200
    replace(tmp_path / "htpasswd", "alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n")
    assert (await peer.ask("GET", path, headers=basic("alice", "new"))).status == 200
    replace(tmp_path / "rights.toml", RIGHTS.replace('["alice"]', '["bob"]'))
    assert (await peer.ask("GET", path, headers=basic("alice", "new"))).status == 403
    replace(tmp_path / "rights.toml", "[[rules")
    assert (await peer.ask("GET", path, headers=basic("alice", "new"))).status == 403


@pytest.mark.parametrize(
    "line",
    [
        "alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        "alice:$apr1$abcdefgh$abcdefghijklmnopqrstuv",
        "alice:secret",
        "alice",
        ":$2y$05$" + "a" * 53,
        "alice:$2y$31$" + "a" * 53,
    ],
)
async def test_other_hashes_are_refused_without_being_shown(tmp_path: Path, line: str) -> None:
    (tmp_path / "htpasswd").write_text(f"# comment\n\n{line}\n")
    with pytest.raises(InvalidArgument, match="line 3") as refused:
        async with open_peer(tmp_path / "registry", access=AccessTable(htpasswd=str(tmp_path / "htpasswd"))):
            pass
    assert line.partition(":")[2] not in str(refused.value) or ":" not in line


async def test_every_denial_leaves_a_line_and_no_secret(peer: Peer) -> None:
    with capture_logs() as lines:
        await peer.ask("GET", "/v2/secret/deep/app/manifests/latest", headers=basic("alice"))
        await peer.ask("GET", "/v2/", headers=basic("alice", "hunter2"))
        await peer.ask("GET", "/v2/", headers={"Authorization": "Bearer hunter2"})
    denied = [line for line in lines if line["event"] == "denied"]
    assert [(line["user"], line["code"]) for line in denied] == [
        ("alice", "DENIED"),
        ("alice", "UNAUTHORIZED"),
        ("(bearer)", "UNAUTHORIZED"),
    ]
    assert "hunter2" not in json.dumps(lines, default=str)


async def test_wrong_passwords_are_not_taken_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # However long it takes to check thirty: time gives more of them.
    monkeypatch.setattr("bulkhead.registry.access.Rates", partial(Rates, clock=lambda: 1.0))
    async with open_peer(tmp_path / "registry", access=access(tmp_path)) as peer:
        statuses = [(await peer.ask("GET", "/v2/", headers=basic("alice", str(n)))).status for n in range(32)]
        assert statuses == [401] * 30 + [429] * 2
        # Also the right one: who guesses must not learn that they guessed it.
        reply = await peer.ask("GET", "/v2/", headers=basic("alice"))
        assert (reply.status, reply.code, reply.headers["Retry-After"]) == (429, "TOOMANYREQUESTS", "5")
        # Others behind the same address go on.
        assert (await peer.ask("GET", "/v2/", headers=basic("bob"))).status == 200


async def test_requests_are_counted_by_user(tmp_path: Path) -> None:
    limits = LimitsTable(requests_per_second=0.01, burst=3)
    async with open_peer(tmp_path / "registry", access=access(tmp_path), limits=limits) as peer:
        statuses = [(await peer.ask("GET", "/v2/", headers=basic("alice"))).status for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        assert (await peer.ask("GET", "/v2/", headers=basic("bob"))).status == 200
        reply = await peer.ask("GET", "/v2/", headers=basic("alice"))
        assert 1 <= int(reply.headers["Retry-After"]) <= 100
        assert (await peer.ask("GET", "/healthz")).status == 200


async def test_requests_are_counted_by_address_where_nobody_logs_in(tmp_path: Path) -> None:
    async with open_peer(tmp_path / "registry", limits=LimitsTable(requests_per_second=0.01, burst=2)) as peer:
        assert [(await peer.ask("GET", "/v2/")).status for _ in range(3)] == [200, 200, 429]


async def test_open_uploads_are_capped_until_they_end(tmp_path: Path) -> None:
    async with open_peer(tmp_path / "registry", limits=LimitsTable(uploads=2)) as peer:
        first, second = [await peer.ask("POST", "/v2/app/blobs/uploads/") for _ in range(2)]
        refused = await peer.ask("POST", "/v2/app/blobs/uploads/")
        assert (refused.status, refused.code) == (429, "TOOMANYREQUESTS")
        assert (await peer.ask("DELETE", first.headers["Location"])).status == 204
        third = await peer.ask("POST", "/v2/app/blobs/uploads/")
        assert third.status == 202
        done = f"{second.headers['Location']}?digest={Digest.of(LAYER)}"
        assert (await peer.ask("PUT", done, LAYER)).status == 201
        assert (await peer.ask("POST", "/v2/app/blobs/uploads/")).status == 202


async def test_blobs_and_manifests_are_limited_in_size(tmp_path: Path) -> None:
    limits = LimitsTable(blob_bytes=1000, manifest_bytes=1024)
    async with open_peer(tmp_path / "registry", limits=limits) as peer:
        big = b"x" * 1001
        reply = await peer.ask("POST", f"/v2/app/blobs/uploads/?digest={Digest.of(big)}", big)
        assert (reply.status, reply.code) == (413, "SIZE_INVALID")
        location = (await peer.ask("POST", "/v2/app/blobs/uploads/")).headers["Location"]
        assert (await peer.ask("PATCH", location, b"x" * 600)).status == 202
        assert (await peer.ask("PATCH", location, b"x" * 600)).status == 413
        assert (await peer.manifest("app", "latest", manifest_of(annotations={"a": "b" * 1024}))).status == 413
        await peer.image("app", "latest")


@pytest.mark.parametrize(
    "table",
    [
        AccessTable(rights="/x"),
        AccessTable(tokens=True),
        AccessTable(anonymous_pull=True),
        AccessTable(htpasswd="/x", token_seconds=1),
        AccessTable(htpasswd="/x", realm='http://x/"'),
    ],
)
def test_settings_that_make_no_sense_are_refused(table: AccessTable) -> None:
    with pytest.raises(InvalidArgument, match=r"registry\.access"):
        check(table, LimitsTable())
