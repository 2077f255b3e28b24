"""Bearer tokens: made by the built-in server, or by issuers that are trusted by their public keys.

A token is verified with a key that we have under the name it tells (`kid`) and by the algorithm
that this key is for; keys, certificates and URLs that a token carries itself are not looked at
(battery H19).
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from bulkhead.errors import InvalidArgument, Unauthorized
from bulkhead.registry.keys import ALGORITHM, KeyRing
from bulkhead.registry.scopes import Access
from bulkhead.registry.watched import Watched

# Clocks of registry and issuer may differ by so much, in seconds.
LEEWAY = 60
# What is asked of a refresh token: the login of a year ago is asked for again.
REFRESH_SECONDS = 30 * 86400
REFRESH = "refresh"
MAX_TOKEN = 64 << 10
REMEMBERED = 1024
# A signature is looked at again after so long: an issuer's keys may have changed.
REMEMBERED_SECONDS = 60.0
_CLAIMS = ["exp", "iss", "aud"]
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a verified token says."""

    subject: str
    access: tuple[Access, ...]
    own: bool
    """Whether we made it, so that its subject is one of our users."""
    expires: float
    """When to look at the token again, in seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerKey:
    """A public key of an issuer, and the algorithms it may be used with."""

    id: str
    key: PublicKey
    algorithms: tuple[str, ...]


class Issuer:
    """A token server elsewhere: its name in tokens, and a file with its public keys (PEM or JWKS)."""

    def __init__(self, name: str, keys: Path, audience: str) -> None:
        self.name = name
        self.audience = audience
        self._keys = Watched(keys, parse_keys)

    def keys(self, key_id: str | None) -> list[IssuerKey]:
        """Those that a token with this `kid` may be signed with."""
        found = self._keys.value
        named = [key for key in found if key.id and key.id == key_id]
        # PEM keys have no names; a token then has to fit one of them.
        return named or [key for key in found if not key.id]


class Tokens:
    """Makes tokens and reads them."""

    def __init__(
        self,
        ring: KeyRing | None,
        issuers: Sequence[Issuer],
        *,
        service: str,
        seconds: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`service` is who we are, in tokens for us; `seconds` an access token's life."""
        self._ring = ring
        self._issuers = {issuer.name: issuer for issuer in issuers}
        self._clock = clock
        self._known: OrderedDict[str, Claims] = OrderedDict()
        self.service = service
        self.seconds = seconds

    def access_token(self, subject: str, audience: str, access: Sequence[Access]) -> str:
        """A token that allows `access` at `audience` for a short time."""
        return self._signed(subject, audience, self.seconds, {"access": msgspec.to_builtins(list(access))})

    def refresh_token(self, subject: str, audience: str, stamp: str) -> str:
        """A token that stands for a password, until that changes (`stamp` does with it)."""
        return self._signed(subject, audience, REFRESH_SECONDS, {"use": REFRESH, "stamp": stamp})

    def refreshed(self, token: str, audience: str) -> tuple[str, str]:
        """(subject, stamp) of a refresh token; raises Unauthorized."""
        claims = self._decoded_own(token, audience)
        subject, stamp = claims.get("sub"), claims.get("stamp")
        if claims.get("use") != REFRESH or not isinstance(subject, str) or not isinstance(stamp, str):
            raise Unauthorized("it is not a refresh token")
        return subject, stamp

    def verify(self, token: str) -> Claims:
        """What a bearer token for us says; raises Unauthorized."""
        known = self._known.get(token)
        if known is not None and known.expires > self._clock():
            return known
        claims = self._verified(token)
        self._known[token] = claims
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return claims

    def _verified(self, token: str) -> Claims:
        issuer = self._issuers.get(_told_issuer(token))
        payload = self._decoded_own(token, self.service) if issuer is None else _decoded_by(issuer, token)
        if "use" in payload:
            raise Unauthorized("it is not an access token")
        try:
            access = msgspec.convert(payload.get("access") or [], tuple[Access, ...])
        except msgspec.ValidationError as error:
            raise Unauthorized(f"its access claim cannot be read: {error}") from error
        subject = payload.get("sub")
        return Claims(
            subject=subject if isinstance(subject, str) else "",
            access=access,
            own=issuer is None,
            expires=min(float(payload["exp"]), self._clock() + REMEMBERED_SECONDS),
        )

    def _signed(self, subject: str, audience: str, seconds: int, claims: dict[str, Any]) -> str:
        if self._ring is None:
            raise Unauthorized("this registry makes no tokens")
        key, now = self._ring.current, int(self._clock())
        payload = {
            "iss": self.service,
            "sub": subject,
            "aud": audience,
            "exp": now + seconds,
            "nbf": now - 1,
            "iat": now,
            "jti": secrets.token_urlsafe(12),
            **claims,
        }
        return jwt.encode(payload, key.private, algorithm=ALGORITHM, headers={"kid": key.id})

    def _decoded_own(self, token: str, audience: str) -> dict[str, Any]:
        key = self._ring.find(_header(token).get("kid", "")) if self._ring is not None else None
        if key is None:
            raise Unauthorized("it is signed with an unknown key")
        return _decoded(token, key.private.public_key(), (ALGORITHM,), audience, self.service, leeway=0)


def parse_keys(data: bytes) -> list[IssuerKey]:
    """Public keys from PEM (keys or certificates) or from a JWKS; raises InvalidArgument."""
    if data.lstrip().startswith(b"{"):
        return _from_jwks(data)
    blocks = data.split(b"-----BEGIN ")[1:]
    if not blocks:
        raise InvalidArgument("it is neither PEM nor a JWKS")
    return [_from_pem(b"-----BEGIN " + block) for block in blocks]


def _from_pem(block: bytes) -> IssuerKey:
    try:
        if block.startswith(b"-----BEGIN CERTIFICATE"):
            return _issuer_key("", x509.load_pem_x509_certificate(block).public_key())
        return _issuer_key("", load_pem_public_key(block))
    except ValueError as error:
        raise InvalidArgument("a key in it cannot be read (private keys are not wanted here)") from error


def _from_jwks(data: bytes) -> list[IssuerKey]:
    try:
        keys = jwt.PyJWKSet.from_json(data.decode()).keys
    except (jwt.PyJWTError, ValueError) as error:
        raise InvalidArgument(f"its keys cannot be read: {error}") from error
    return [_issuer_key(key.key_id or "", key.key) for key in keys]


def _issuer_key(key_id: str, key: object) -> IssuerKey:
    if isinstance(key, rsa.RSAPublicKey):
        algorithms: tuple[str, ...] = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
    elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        algorithms = (_CURVES[key.curve.name],)
    elif isinstance(key, ed25519.Ed25519PublicKey):
        algorithms = ("EdDSA",)
    else:
        raise InvalidArgument("a key in it is not a public RSA, P-256, P-384, P-521 or Ed25519 key")
    return IssuerKey(id=key_id, key=key, algorithms=algorithms)


def _decoded_by(issuer: Issuer, token: str) -> dict[str, Any]:
    failure = Unauthorized("it is signed with an unknown key")
    for key in issuer.keys(_header(token).get("kid")):
        try:
            return _decoded(token, key.key, key.algorithms, issuer.audience, issuer.name, leeway=LEEWAY)
        except Unauthorized as error:
            failure = error
    raise failure


def _decoded(
    token: str, key: PublicKey, algorithms: Sequence[str], audience: str, issuer: str, *, leeway: int
) -> dict[str, Any]:
    try:
        payload: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=list(algorithms),
            audience=audience,
            issuer=issuer,
            leeway=leeway,
            options={"require": _CLAIMS},
        )
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise Unauthorized(str(error)) from error
    return payload


def _header(token: str) -> dict[str, Any]:
    try:
        return jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError) as error:
        raise Unauthorized("it is not a token") from error


def _told_issuer(token: str) -> str:
    """Whom a token names as its issuer: only which keys to try, nothing is believed yet."""
    if len(token) > MAX_TOKEN:
        raise Unauthorized("it is too long")
    try:
        told = jwt.decode(token, options={"verify_signature": False}).get("iss", "")
    except (jwt.PyJWTError, ValueError) as error:
        raise Unauthorized("it is not a token") from error
    return told if isinstance(told, str) else ""
