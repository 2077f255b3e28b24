"""The gate as the configuration wants it: users, tokens, rights, limits, put together."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bulkhead.content.blocking import Blocking
from bulkhead.content.durable import disk_errors, make_directories, write_file
from bulkhead.content.manifests import MAX_MANIFEST
from bulkhead.errors import InvalidArgument
from bulkhead.registry import htpasswd, rights
from bulkhead.registry.access import Access, Policy
from bulkhead.registry.gate import Gate
from bulkhead.registry.limits import Rates, Sessions
from bulkhead.registry.routes import Routes
from bulkhead.registry.watched import Watched

# What tokens need (signatures, certificates) takes 3 MB and 50 ms, and is imported where tokens are wanted.
if TYPE_CHECKING:
    from bulkhead.registry.keys import KeyRing
    from bulkhead.registry.tokens import Tokens

# An upload that nothing is sent to for so long is not counted as open any more.
UPLOAD_IDLE_SECONDS = 3600.0
SEAL_BYTES = 32


class IssuerTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One `[[registry.access.issuers]]`: a token server elsewhere that is trusted."""

    name: str
    """Its `iss`."""
    keys: str
    """A file with its public keys, PEM or JWKS."""
    audience: str = ""
    """What its tokens must be for; `service` when empty."""


class AccessTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The table `[registry.access]`. Without `htpasswd` and `issuers` everybody may do everything."""

    htpasswd: str = ""
    rights: str = ""
    anonymous_pull: bool = False
    tokens: bool = False
    """Whether clients are sent to the built-in token server, rather than asked for a password each time."""
    token_seconds: int = 300
    service: str = "bulkhead-registry"
    audiences: list[str] = []
    """Other registries that the token server makes tokens for."""
    realm: str = ""
    """The token server's URL; empty for the built-in one under the name that the client uses."""
    issuers: list[IssuerTable] = []

    @property
    def enabled(self) -> bool:
        return bool(self.htpasswd or self.issuers)


class LimitsTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The table `[registry.limits]`; 0 switches a limit off where that makes sense."""

    requests_per_second: float = 0.0
    """Of one user, or of one address where users do not log in."""
    burst: int = 100
    uploads: int = 1000
    """Upload sessions that one caller may have open."""
    blob_bytes: int = 0
    manifest_bytes: int = MAX_MANIFEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The gate, and the endpoints that come with it."""

    gate: Gate
    rows: Routes


def check(access: AccessTable, limits: LimitsTable) -> None:
    """Raises InvalidArgument for settings that make no sense together."""
    if not access.enabled and (access.rights or access.tokens or access.anonymous_pull):
        raise InvalidArgument("[registry.access]: rights, tokens and anonymous_pull need htpasswd or issuers")
    if access.tokens and not access.htpasswd:
        raise InvalidArgument("[registry.access]: tokens needs htpasswd: whom should they be made for?")
    if access.issuers and not (access.tokens or access.realm):
        raise InvalidArgument("[registry.access]: issuers needs realm, where clients get their tokens, or tokens")
    if not 60 <= access.token_seconds <= 86400:
        raise InvalidArgument("[registry.access]: token_seconds must be between 60 and 86400")
    if any(character in access.realm + access.service for character in '"\\\r\n'):
        raise InvalidArgument("[registry.access]: realm and service cannot hold quotes")
    if limits.requests_per_second < 0 or limits.burst < 1 or limits.uploads < 1 or limits.blob_bytes < 0:
        raise InvalidArgument("[registry.limits]: burst and uploads must be at least 1, nothing may be negative")
    if not 1 << 10 <= limits.manifest_bytes <= MAX_MANIFEST:
        raise InvalidArgument("[registry.limits]: manifest_bytes must be between 1 KiB and 4 MiB")


@contextmanager
def admission(root: Path, access: AccessTable, limits: LimitsTable, blocking: Blocking) -> Iterator[Admission]:
    """Everything between a request and its handler; raises InvalidArgument for files that cannot be used."""
    rates = Rates(limits.requests_per_second, limits.burst) if limits.requests_per_second else None
    sessions = Sessions(limits.uploads, UPLOAD_IDLE_SECONDS)
    if not access.enabled:
        yield Admission(gate=Gate(access=None, rates=rates, sessions=sessions, seal=b""), rows=())
        return
    directory = root / "access"
    users = htpasswd.Users(Path(access.htpasswd)) if access.htpasswd else None
    try:
        policy = Policy(
            Watched(Path(access.rights), rights.parse) if access.rights else None, anonymous_pull=access.anonymous_pull
        )
        ring = _ring(directory) if access.tokens else None
        tokens = _tokens(access, ring)
        door = Access(users, tokens, policy, realm=access.realm)
        rows: Routes = ()
        if users is not None and tokens is not None and ring is not None:
            from bulkhead.registry.token_server import TokenServer

            server = TokenServer(door, users, tokens, ring, policy, blocking, audiences=access.audiences)
            rows = server.rows()
        yield Admission(gate=Gate(access=door, rates=rates, sessions=sessions, seal=_seal(directory)), rows=rows)
    finally:
        if users is not None:
            users.close()


def _ring(directory: Path) -> KeyRing:
    from bulkhead.registry.keys import KeyRing

    ring = KeyRing(directory / "keys")
    ring.open()
    return ring


def _tokens(access: AccessTable, ring: KeyRing | None) -> Tokens | None:
    if ring is None and not access.issuers:
        return None
    from bulkhead.registry.tokens import Issuer, Tokens

    issuers = [Issuer(told.name, Path(told.keys), told.audience or access.service) for told in access.issuers]
    return Tokens(ring, issuers, service=access.service, seconds=access.token_seconds)


def _seal(directory: Path) -> bytes:
    """The secret behind upload URLs: made once, so that uploads go on after a restart."""
    path = directory / "seal"
    with disk_errors(f"open {path}"):
        make_directories(directory)
        if path.exists() and len(found := path.read_bytes()) == SEAL_BYTES:
            return found
        made = secrets.token_bytes(SEAL_BYTES)
        write_file(path, made)
        return made
