"""An engine that listens on TCP, and the certificates of its clients."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.engine import Engine, private_engine
from tests.support.ports import free_port

NOW = datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True)
class Authority:
    """Signs certificates; everything of one name lies in one directory as docker wants it."""

    directory: Path
    name: str

    def make(self) -> Authority:
        self.directory.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self.name)])
        self._write("ca", key, self._signed(subject, subject, key, key, ca=True))
        return self

    def issue(self, name: str) -> None:
        """`<name>.pem` and `<name>-key.pem`, good for a server at 127.0.0.1 and for clients."""
        key = ec.generate_private_key(ec.SECP256R1())
        signer = serialization.load_pem_private_key((self.directory / "ca-key.pem").read_bytes(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        issuer = x509.load_pem_x509_certificate((self.directory / "ca.pem").read_bytes()).subject
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._write(name, key, self._signed(subject, issuer, key, signer, ca=False))

    def _signed(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        signer: ec.EllipticCurvePrivateKey,
        *,
        ca: bool,
    ) -> x509.Certificate:
        names = [x509.DNSName("engine.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - datetime.timedelta(hours=1))
            .not_valid_after(NOW + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(signer, hashes.SHA256())
        )

    def _write(self, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (self.directory / f"{name}-key.pem").write_bytes(key.private_bytes(*plain))
        (self.directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


@dataclass(frozen=True)
class Remote:
    """An engine with TCP."""

    engine: Engine
    port: int
    certificates: Path
    strangers: Path

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"


@pytest.fixture(scope="session")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    base = tmp_path_factory.mktemp("tls")
    ours, theirs = (Authority(base / name, name).make() for name in ("ours", "theirs"))
    ours.issue("server")
    for authority in (ours, theirs):
        authority.issue("cert")
        (authority.directory / "cert-key.pem").rename(authority.directory / "key.pem")
    (theirs.directory / "ca.pem").write_bytes((ours.directory / "ca.pem").read_bytes())
    port = free_port()
    config = base / "config.toml"
    config.write_text(
        f"""[api]
listen = "tcp://127.0.0.1:{port}"
tlscacert = "{ours.directory}/ca.pem"
tlscert = "{ours.directory}/server.pem"
tlskey = "{ours.directory}/server-key.pem"
"""
    )
    with private_engine(BULKHEAD_CONFIG=str(config)) as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox")
        yield Remote(engine, port, ours.directory, theirs.directory)
        engine.remove_containers()
