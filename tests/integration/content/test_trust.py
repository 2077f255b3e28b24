"""certs.d: whose certificates are believed, and which is shown, with real TLS."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from bulkhead.content.client import Registry
from bulkhead.content.proxies import Proxies
from bulkhead.content.transport import Transport
from bulkhead.content.trust import Trust
from bulkhead.errors import InvalidArgument, Unavailable
from tests.integration.content.peers import IMPATIENT, Scripted, image_of, named, paths

HOST = "registry.test:5000"
IMAGE = image_of(b"layer")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.crt, and server and client certificates that it signed."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    directory = tmp_path_factory.mktemp("authority")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl(directory, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca", "-days", "9")
    for name in ("server", "client"):
        _openssl(directory, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (directory / "extensions").write_text("subjectAltName=DNS:registry.test,IP:127.0.0.1")
        sign = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "9", "-extfile", "extensions")
        _openssl(directory, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.cert", *sign)
    return directory


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def given(directory: Path, host: str, authority: Path, *files: str) -> Trust:
    """A certs.d directory with these files for a host."""
    (directory / host).mkdir(parents=True)
    for file in files:
        shutil.copy(authority / file, directory / host)
    return Trust((directory / "absent", directory))


@asynccontextmanager
async def tls_server(authority: Path, *, wants_client: bool = False) -> AsyncIterator[int]:
    """Greets whoever it trusts; yields its port."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await writer.drain()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / "server.cert", authority / "server.key")
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority / "ca.crt")
    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def greeted(port: int, context: ssl.SSLContext | bool) -> bytes:
    made = ssl.create_default_context() if context is True else context
    assert isinstance(made, ssl.SSLContext)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=made, server_hostname="registry.test")
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_an_authority_is_good_for_its_registry_alone(tmp_path: Path, authority: Path) -> None:
    trust = given(tmp_path, HOST, authority, "ca.crt")
    async with tls_server(authority) as port:
        assert await greeted(port, trust.context(HOST, HOST, insecure=False)) == b"hello"
        assert await greeted(port, trust.context("tokens.test", HOST, insecure=False)) == b"hello"
        with pytest.raises(ssl.SSLCertVerificationError):
            await greeted(port, trust.context("other.test", "other.test", insecure=False))


async def test_our_certificate_is_shown_to_its_registry_alone(tmp_path: Path, authority: Path) -> None:
    trust = given(tmp_path, HOST, authority, "ca.crt", "client.cert", "client.key")
    async with tls_server(authority, wants_client=True) as port:
        assert await greeted(port, trust.context(HOST, HOST, insecure=False)) == b"hello"
        # By TLS 1.3 a client learns of its refusal by an alert, or by the end of the stream.
        answer = b""
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            answer = await greeted(port, trust.context("tokens.test", HOST, insecure=False))
        assert answer == b""


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (("client.cert",), "missing key client.key for client certificate client.cert"),
        (("client.key",), "missing client certificate client.cert for key client.key"),
    ],
)
def test_half_a_pair_is_refused(tmp_path: Path, authority: Path, files: tuple[str, ...], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        given(tmp_path, HOST, authority, *files).context(HOST, HOST, insecure=False)


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path, authority: Path) -> None:
    trust = given(tmp_path, HOST, authority)
    (tmp_path / HOST / "bad.crt").write_text("no certificate")
    with pytest.raises(InvalidArgument, match=r"bad\.crt"):
        trust.context(HOST, HOST, insecure=False)


async def test_a_registry_that_wants_our_certificate_gets_it(tmp_path: Path, authority: Path) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"{}" if request.path == "/v2/" else IMAGE.manifest)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority / "ca.crt"))
    context.load_cert_chain(authority / "server.cert", authority / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    async with Scripted(answer).serving(context) as peer:
        trust = given(tmp_path, peer.address, authority, "ca.crt", "client.cert", "client.key")
        upstream = f"https://{peer.address}"
        async with Registry(peer.address, transport=Transport(trust=trust), patience=IMPATIENT) as registry:
            assert (await registry.manifest(named(peer.address))).digest == IMAGE.digest, upstream


async def test_a_proxy_is_asked_for_the_registry() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"{}" if request.path == "/v2/" else IMAGE.manifest)

    async with Scripted(answer).serving() as proxy:
        ways = Transport(insecure=("registry.test",), proxies=Proxies(http=proxy.address))
        async with Registry("registry.test", transport=ways, patience=IMPATIENT) as registry:
            found = await registry.manifest(named("registry.test"))
    assert found.digest == IMAGE.digest
    # Nobody else could have answered for a host that does not exist.
    assert paths(proxy.seen)[-1] == "/v2/app/manifests/latest"


async def test_a_proxy_that_is_away_is_named() -> None:
    ways = Transport(proxies=Proxies(https="http://127.0.0.1:1"))
    async with Registry("registry.test", transport=ways, patience=IMPATIENT) as registry:
        with pytest.raises(Unavailable, match=r"proxyconnect tcp: dial tcp 127.0.0.1:1: connect: connection refused"):
            await registry.manifest(named("registry.test"))
