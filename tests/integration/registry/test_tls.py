"""The registry under its certificate."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bulkhead.errors import InvalidArgument
from bulkhead.registry import tls
from bulkhead.registry.tls import Certificate
from tests.integration.registry.wire import LAYER, open_peer
from tests.support.eventually import eventually


def certificate(directory: Path, name: str) -> Certificate:
    """Write a self-signed pair for 127.0.0.1 over what is there."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (directory / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Certificate(certificate=directory / "cert.pem", key=directory / "key.pem")


def client(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = version
        context.maximum_version = version
    return context


async def shown(port: int) -> str:
    """The name in the certificate that is shown to a new connection."""
    found = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
    names = x509.load_pem_x509_certificate(found.encode()).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_blobs_go_through_tls_and_old_versions_do_not(tmp_path: Path) -> None:
    files = certificate(tmp_path, "first")
    async with open_peer(tmp_path / "registry", tls=files) as peer:
        port = int(peer.base.rpartition(":")[2])
        secure = f"https://127.0.0.1:{port}"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client())) as session:
            over_tls = type(peer)(base=secure, root=peer.root, session=session)
            digest = await over_tls.blob("app", LAYER * 10_000)
            assert (await over_tls.ask("GET", f"/v2/app/blobs/{digest}")).body == LAYER * 10_000
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            async with aiohttp.ClientSession() as session:
                with pytest.raises(aiohttp.ClientConnectionError):
                    await session.get(f"{secure}/v2/", ssl=client(version))


async def test_a_renewed_certificate_is_shown_to_new_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0.01)
    files = certificate(tmp_path, "first")
    async with open_peer(tmp_path / "registry", tls=files) as peer:
        port = int(peer.base.rpartition(":")[2])
        assert await shown(port) == "first"
        (tmp_path / "cert.pem").write_text("half written")
        assert await shown(port) == "first"
        certificate(tmp_path, "second")

        async def renewed() -> bool:
            return await shown(port) == "second"

        await eventually(renewed)


async def test_files_that_do_not_fit_are_said(tmp_path: Path) -> None:
    files = certificate(tmp_path, "first")
    (tmp_path / "key.pem").write_text("nothing")
    with pytest.raises(InvalidArgument, match="cannot use certificate"):
        async with open_peer(tmp_path / "registry", tls=files):
            pass
    missing = Certificate(certificate=tmp_path / "none", key=tmp_path / "none")
    with pytest.raises(InvalidArgument, match="No such file"):
        async with open_peer(tmp_path / "registry", tls=missing):
            pass
