"""The clients that people have against our registry with users, and our engine against another registry with users."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.engine import Engine, docker_cli
from tests.support.images import busybox_image, save_layout
from tests.support.registries import debian_registry, our_registry, write_certificate, write_htpasswd

SECONDS = 120.0
MODES = ("basic", "tokens")
RIGHTS = """
[[rules]]
repositories = ["team/*"]
users = ["alice"]
actions = ["pull", "push"]

[[rules]]
repositories = ["team/*"]
users = ["bob"]
actions = ["pull"]
"""


def run(*command: str, environ: dict[str, str] | None = None, input: str | None = None) -> str:
    done = attempt(*command, environ=environ, input=input)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def attempt(
    *command: str, environ: dict[str, str] | None = None, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environ, input=input
    )


def tool(name: str) -> str:
    """A client's program; skips the test where there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} on this machine")
    return path


@pytest.fixture(params=MODES)
def registry(request: pytest.FixtureRequest) -> Iterator[str]:
    """Our registry: alice may push to team/*, bob only pull; with passwords on each request, or with tokens."""
    with tempfile.TemporaryDirectory(prefix="bh-ra-") as directory:
        base = Path(directory)
        write_htpasswd(base / "htpasswd", alice="alice!", bob="bob!")
        (base / "rights.toml").write_text(RIGHTS)
        toml = (
            f"[registry.access]\nhtpasswd = '{base}/htpasswd'\nrights = '{base}/rights.toml'\n"
            f"tokens = {str(request.param == 'tokens').lower()}\n"
        )
        with our_registry(base, toml) as address:
            yield address


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_layout(busybox_image(), tmp_path_factory.mktemp("image") / "layout")


def docker_round(docker: list[str], environ: dict[str, str], registry: str) -> None:
    """Log in, push, be refused, pull, log out: what CI jobs do. The daemon has `busybox`."""

    def ok(*arguments: str, input: str | None = None) -> str:
        return run(*docker, *arguments, environ=environ, input=input)

    def refused(*arguments: str, input: str | None = None) -> str:
        done = attempt(*docker, *arguments, environ=environ, input=input)
        assert done.returncode != 0, (arguments, done.stdout)
        return done.stdout + done.stderr

    image = f"{registry}/team/app:one"
    ok("tag", "busybox", image)
    try:
        assert any(word in refused("push", image) for word in ("denied", "unauthorized", "no basic auth"))
        assert "unauthorized" in refused("login", "-u", "alice", "--password-stdin", registry, input="wrong").lower()
        ok("login", "-u", "bob", "--password-stdin", registry, input="bob!")
        assert "denied" in refused("push", image)
        ok("logout", registry)
        assert "Login Succeeded" in ok("login", "-u", "alice", "--password-stdin", registry, input="alice!")
        ok("push", image)
        ok("rmi", image)
        ok("pull", image)
        assert any(word in refused("pull", f"{registry}/other/app:one") for word in ("denied", "unauthorized"))
        ok("logout", registry)
        ok("rmi", image)
        assert any(word in refused("pull", image) for word in ("denied", "unauthorized", "no basic auth"))
    finally:
        attempt(*docker, "rmi", image, environ=environ)
        attempt(*docker, "logout", registry, environ=environ)


def test_docker_with_our_engine(engine: Engine, registry: str) -> None:
    docker_round([docker_cli()], engine.environ, registry)


def test_docker_with_dockerd(registry: str, layout: Path) -> None:
    if os.environ.get("BULKHEAD_TEST_DOCKERD") != "1":
        pytest.skip("dockerd takes part only where BULKHEAD_TEST_DOCKERD=1")
    with tempfile.TemporaryDirectory(prefix="bh-rd-") as directory, private_dockerd(Path(directory)) as environ:
        archive = Path(directory) / "busybox.tar"
        run(tool("skopeo"), "copy", f"oci:{layout}:latest", f"docker-archive:{archive}:busybox:latest")
        run(docker_cli(), "load", "-i", str(archive), environ=environ)
        docker_round([docker_cli()], environ, registry)


@contextmanager
def private_dockerd(base: Path) -> Iterator[dict[str, str]]:
    """A dockerd without a network of its own; the environment of clients for it."""
    places = ["--data-root", f"{base}/data", "--exec-root", f"{base}/exec", "--pidfile", f"{base}/pid"]
    network = ["--bridge=none", "--iptables=false", "--ip6tables=false"]
    command = [tool("dockerd"), *places, *network, "-H", f"unix://{base}/d.sock"]
    environ = {**os.environ, "DOCKER_HOST": f"unix://{base}/d.sock", "DOCKER_CONFIG": str(base / "client")}
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + SECONDS
        while attempt(docker_cli(), "version", environ=environ).returncode != 0:
            assert process.poll() is None and time.monotonic() < deadline, (base / "log").read_text()[-3000:]
            time.sleep(0.2)
        yield environ
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_skopeo(registry: str, layout: Path, tmp_path: Path) -> None:
    skopeo, image = tool("skopeo"), f"docker://{registry}/team/app:one"
    source, plain = f"oci:{layout}:latest", "--dest-tls-verify=false"
    assert attempt(skopeo, "copy", plain, source, image).returncode != 0
    assert attempt(skopeo, "copy", plain, "--dest-creds=alice:wrong", source, image).returncode != 0
    assert attempt(skopeo, "copy", plain, "--dest-creds=bob:bob!", source, image).returncode != 0
    run(skopeo, "copy", plain, "--dest-creds=alice:alice!", source, image)
    # Mounted from the repository that it is in: no bytes go over the wire twice.
    both = [plain, "--dest-creds=alice:alice!", "--src-tls-verify=false", "--src-creds=bob:bob!"]
    run(skopeo, "copy", *both, image, f"docker://{registry}/team/copy:one")
    run(skopeo, "copy", "--src-tls-verify=false", "--src-creds=bob:bob!", image, f"dir:{tmp_path}/got")
    got = hashlib.sha256((tmp_path / "got/manifest.json").read_bytes()).hexdigest()
    assert got in (layout / "index.json").read_text()
    listed = run(skopeo, "list-tags", "--tls-verify=false", "--creds=bob:bob!", f"docker://{registry}/team/app")
    assert json.loads(listed)["Tags"] == ["one"]
    assert attempt(skopeo, "delete", "--tls-verify=false", "--creds=alice:alice!", image).returncode != 0


@pytest.fixture
def short_path() -> Iterator[Path]:
    """podman refuses run roots longer than fifty characters."""
    with tempfile.TemporaryDirectory(prefix="bh-pod-", dir="/tmp") as made:
        yield Path(made)


def test_podman(registry: str, layout: Path, tmp_path: Path, short_path: Path) -> None:
    places = ["--root", f"{tmp_path}/root", "--runroot", str(short_path), "--storage-driver", "vfs"]
    podman, image = [tool("podman"), *places], f"{registry}/team/app:pod"
    plain = ["--tls-verify=false", "--authfile", f"{tmp_path}/auth.json"]
    run(*podman, "pull", "-q", f"oci:{layout}:latest")
    run(*podman, "tag", run(*podman, "images", "-q").split()[0], image)
    assert attempt(*podman, "push", "-q", *plain, image).returncode != 0
    login = ["login", *plain, "-u", "alice", "--password-stdin", registry]
    assert attempt(*podman, *login, input="wrong").returncode != 0
    run(*podman, *login, input="alice!")
    run(*podman, "push", "-q", *plain, image)
    run(*podman, "rmi", image)
    run(*podman, "pull", "-q", *plain, image)
    run(*podman, "logout", "--authfile", f"{tmp_path}/auth.json", registry)
    run(*podman, "rmi", image)
    assert attempt(*podman, "pull", "-q", *plain, image).returncode != 0


class Oras:
    """What `oras attach` says on the wire: token or password, blob by POST and PUT, manifest with subject."""

    def __init__(self, registry: str, user: str) -> None:
        self._base = f"http://{registry}"
        self._basic = "Basic " + b64encode(f"{user}:{user}!".encode()).decode()

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        authorization = self._basic
        probe = self._send(method, path, body, headers)
        challenge = probe[1].get("www-authenticate", "")
        if probe[0] == 401 and challenge.startswith("Bearer"):
            fields = challenge.removeprefix("Bearer ").split('",')
            parts = {name: value.strip('"') for name, _, value in (field.partition("=") for field in fields)}
            query = f"?service={parts['service']}&scope={parts.get('scope', '')}"
            request = urllib.request.Request(parts["realm"] + query, headers={"Authorization": self._basic})
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                authorization = f"Bearer {json.load(answer)['token']}"
        return self._send(method, path, body, {**headers, "Authorization": authorization})

    def _send(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        url = path if path.startswith("http") else self._base + path
        request = urllib.request.Request(url, data=body, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()

    def push_blob(self, repository: str, data: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        status, headers, _ = self.ask("POST", f"/v2/{repository}/blobs/uploads/")
        assert status == 202
        location = headers["location"] + ("&" if "?" in headers["location"] else "?") + f"digest={digest}"
        kind = {"Content-Type": "application/octet-stream"}
        assert self.ask("PUT", location, data, **kind)[0] == 201
        return {"mediaType": "application/octet-stream", "digest": digest, "size": len(data)}


def test_an_artifact_is_attached_to_an_image(registry: str, layout: Path) -> None:
    """ORAS's way: an empty config, an artifact type, a subject; found again by its subject."""
    image = f"docker://{registry}/team/app:one"
    run(tool("skopeo"), "copy", "--dest-tls-verify=false", "--dest-creds=alice:alice!", f"oci:{layout}:latest", image)
    alice, bob = Oras(registry, "alice"), Oras(registry, "bob")
    kind = "application/vnd.oci.image.manifest.v1+json"
    status, headers, subject = bob.ask("GET", "/v2/team/app/manifests/one", Accept=kind)
    assert status == 200
    config = {**alice.push_blob("team/app", b"{}"), "mediaType": "application/vnd.oci.empty.v1+json"}
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "artifactType": "application/vnd.example.sbom",
        "config": config,
        "layers": [alice.push_blob("team/app", b"a list of parts")],
        "subject": {"mediaType": kind, "digest": headers["docker-content-digest"], "size": len(subject)},
    }
    body = json.dumps(manifest).encode()
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    path = f"/v2/team/app/manifests/{digest}"
    assert bob.ask("PUT", path, body, **{"Content-Type": kind})[0] in (401, 403)
    status, answer, _ = alice.ask("PUT", path, body, **{"Content-Type": kind})
    assert (status, answer["oci-subject"]) == (201, headers["docker-content-digest"])
    _, _, listed = bob.ask("GET", f"/v2/team/app/referrers/{headers['docker-content-digest']}")
    entries = json.loads(listed)["manifests"]
    assert [(entry["digest"], entry["artifactType"]) for entry in entries] == [(digest, "application/vnd.example.sbom")]


def test_our_engine_with_debians_registry_and_passwords(engine: Engine) -> None:
    with tempfile.TemporaryDirectory(prefix="bh-rh-") as directory:
        base = Path(directory)
        write_htpasswd(base / "htpasswd", alice="alice!", bob="bob!")
        with debian_registry(base, f"{{htpasswd: {{realm: theirs, path: {base}/htpasswd}}}}") as registry:
            image = f"{registry}/team/app:one"
            engine.docker_ok("tag", "busybox", image)
            assert engine.docker("push", image).returncode != 0
            assert engine.docker("login", "-u", "alice", "--password-stdin", registry, input="x").returncode != 0
            _push_and_pull(engine, registry, image)


def test_our_engine_with_debians_registry_and_our_tokens(engine: Engine) -> None:
    """Their registry trusts our token server by the bundle of certificates that it writes."""
    with tempfile.TemporaryDirectory(prefix="bh-rt-") as directory:
        base = Path(directory)
        write_htpasswd(base / "htpasswd", alice="alice!", bob="bob!")
        (base / "rights.toml").write_text(RIGHTS)
        certificate, key = write_certificate(base)
        toml = (
            f"[registry.tls]\ncertificate = '{certificate}'\nkey = '{key}'\n"
            f"[registry.access]\nhtpasswd = '{base}/htpasswd'\nrights = '{base}/rights.toml'\n"
            "tokens = true\naudiences = ['theirs']\n"
        )
        with our_registry(base / "ours", toml, scheme="https") as server:
            bundle = base / "ours/data/registry/access/keys/bundle.pem"
            token = f"realm: 'https://{server}/token', service: theirs, issuer: bulkhead-registry"
            with debian_registry(base / "theirs", f"{{token: {{{token}, rootcertbundle: {bundle}}}}}") as registry:
                image = f"{registry}/team/app:one"
                engine.docker_ok("tag", "busybox", image)
                assert "denied" in engine.docker("push", image).stderr
                engine.docker_ok("login", "-u", "bob", "--password-stdin", registry, input="bob!")
                assert "denied" in engine.docker("push", image).stderr
                _push_and_pull(engine, registry, image)


def _push_and_pull(engine: Engine, registry: str, image: str) -> None:
    engine.docker_ok("login", "-u", "alice", "--password-stdin", registry, input="alice!")
    try:
        engine.docker_ok("push", image)
        engine.docker_ok("rmi", image)
        engine.docker_ok("pull", image)
        assert engine.docker_ok("run", "--rm", image, "echo", "hello") == "hello"
    finally:
        engine.docker("rmi", image)
        engine.docker_ok("logout", registry)
    assert engine.docker("pull", image).returncode != 0
