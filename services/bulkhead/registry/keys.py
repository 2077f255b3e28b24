"""The keys that the built-in token server signs with.

    <root>/keys/                    0700
      <seconds>-<random>.pem        private keys (P-256), named by when they were made; the newest signs
      bundle.pem                    a certificate per key, for other registries (`rootcertbundle`)

A key is replaced after ROTATION; it still verifies until what it signed has run out.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm

from bulkhead.content.durable import disk_errors, make_directories, write_file
from bulkhead.errors import DataLoss

ROTATION = 30 * 86400.0
# Longer than any token lives.
KEPT = 2 * ROTATION
ALGORITHM = "ES256"
_NAME = re.compile(r"([0-9]{10})-[0-9a-f]{8}\.pem", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key pair."""

    id: str
    private: ec.EllipticCurvePrivateKey
    made: float
    """Seconds since 1970."""

    @property
    def jwk(self) -> dict[str, Any]:
        """The public half, for a JWKS."""
        public = ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {**public, "kid": self.id, "use": "sig", "alg": ALGORITHM}


class KeyRing:
    """The keys of one data directory. Methods that touch the disk block."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock
        self._keys: dict[str, Key] = {}

    def open(self) -> None:
        """Read the keys, make one when there is none. Raises DataLoss for one that cannot be read."""
        with disk_errors(f"open keys {self._directory}"):
            make_directories(self._directory)
            found = [self._load(path) for path in sorted(self._directory.iterdir()) if _NAME.fullmatch(path.name)]
        self._keys = {key.id: key for key in found}
        self.rotate()

    @property
    def due(self) -> bool:
        """Whether `rotate` has something to do."""
        newest = max((key.made for key in self._keys.values()), default=0.0)
        oldest = min((key.made for key in self._keys.values()), default=0.0)
        return newest + ROTATION <= self._clock() or oldest + KEPT + ROTATION <= self._clock()

    def rotate(self) -> None:
        """Make a new key when the newest is old, forget those that no living token is signed with."""
        if self.due:
            keys = [key for key in self._keys.values() if key.made + KEPT + ROTATION > self._clock()]
            if not keys or max(key.made for key in keys) + ROTATION <= self._clock():
                keys.append(self._make())
            self._keys = {key.id: key for key in keys}
            self._sweep()
        with disk_errors(f"write {self._directory / 'bundle.pem'}"):
            write_file(self._directory / "bundle.pem", b"".join(map(_certificate, self._keys.values())))

    @property
    def current(self) -> Key:
        """The key to sign with."""
        return max(self._keys.values(), key=lambda key: key.made)

    def find(self, key_id: str) -> Key | None:
        """The key that a token says it is signed with, if it is one of ours."""
        return self._keys.get(key_id)

    @property
    def jwks(self) -> dict[str, Any]:
        """The public halves (RFC 7517)."""
        return {"keys": [key.jwk for key in self._keys.values()]}

    def _make(self) -> Key:
        private = ec.generate_private_key(ec.SECP256R1())
        made = self._clock()
        path = self._directory / f"{int(made):010d}-{secrets.token_hex(4)}.pem"
        with disk_errors(f"write {path}"):
            write_file(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Key(id=_key_id(private), private=private, made=made)

    def _load(self, path: Path) -> Key:
        try:
            private = load_pem_private_key(path.read_bytes(), password=None)
        except ValueError as error:
            raise DataLoss(f"cannot read key {path}: it is damaged; remove it to have a new one made") from error
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise DataLoss(f"cannot read key {path}: it is not an elliptic curve's")
        return Key(id=_key_id(private), private=private, made=float(path.name.partition("-")[0]))

    def _sweep(self) -> None:
        kept = {int(key.made) for key in self._keys.values()}
        with disk_errors(f"sweep {self._directory}"):
            for path in self._directory.iterdir():
                match = _NAME.fullmatch(path.name)
                if path.name.endswith(".tmp") or (match is not None and int(match[1]) not in kept):
                    path.unlink()


def _key_id(private: ec.EllipticCurvePrivateKey) -> str:
    """The name that Docker's libtrust gives a key, by which registries look it up in their bundle."""
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(public).digest()[:30]).decode()
    return ":".join(text[start : start + 4] for start in range(0, len(text), 4))


def _certificate(key: Key) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"bulkhead-registry {key.id[:9]}")])
    made = datetime.datetime.fromtimestamp(key.made, datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(made - datetime.timedelta(hours=1))
        .not_valid_after(made + datetime.timedelta(seconds=ROTATION + KEPT))
        .sign(key.private, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)
