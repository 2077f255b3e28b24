"""What the registry is told: `[registry]` of the configuration file, and its flags above it."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from bulkhead.errors import InvalidArgument
from bulkhead.registry.admission import AccessTable, LimitsTable, check
from bulkhead.registry.collection import Policy
from bulkhead.registry.tls import Certificate
from bulkhead.registry.upstreams import tables
from bulkhead.registry.upstreams.tables import CacheTable, UpstreamTable
from bulkhead.settings import Settings

_POLICY = Policy()
ADMIN_SOCKET = "registry.sock"


class CollectionTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The table `[registry.gc]` as written: seconds, and whether untagged manifests go."""

    interval: float = _POLICY.interval
    grace: float = _POLICY.grace
    reader_grace: float = _POLICY.reader_grace
    upload_ttl: float = _POLICY.upload_ttl
    untagged: bool = _POLICY.untagged
    orphan_interval: float = _POLICY.orphan_interval


class S3Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The table `[registry.s3]`: the bucket that blobs are kept in, instead of the root directory.

    Without keys those of the environment (AWS_ACCESS_KEY_ID and so on) are used.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    access_key: str = ""
    secret_key: str = ""


class TlsTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The table `[registry.tls]`."""

    certificate: str
    key: str
    minimum: Literal["1.2", "1.3"] = "1.2"


class Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The table `[registry]` as written."""

    root: str = ""
    delete: bool = True
    access: AccessTable = AccessTable()
    limits: LimitsTable = LimitsTable()
    tls: TlsTable | None = None
    automount: bool = True
    gc: CollectionTable = CollectionTable()
    upstreams: list[UpstreamTable] = []
    cache: CacheTable = CacheTable()
    s3: S3Table | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The registry's own settings."""

    host: str
    port: int
    root: Path
    delete: bool = True
    """Whether manifests, tags and blobs may be deleted."""
    access: AccessTable = field(default_factory=AccessTable)
    limits: LimitsTable = field(default_factory=LimitsTable)
    tls: Certificate | None = None
    automount: bool = True
    """Whether a mount that names no source finds the blob in any repository. Not where rights differ among them."""
    gc: Policy = _POLICY
    upstreams: Sequence[UpstreamTable] = ()
    cache: CacheTable = field(default_factory=CacheTable)
    s3: S3Table | None = None
    """The bucket; None: blobs are files below the root."""
    admin: Path | None = None
    """The socket on which the operator's commands are taken."""


def add_arguments(parser: ArgumentParser) -> None:
    """The registry's flags."""
    parser.add_argument("--listen", metavar="HOST:PORT", help="default: BULKHEAD_REGISTRY, else 127.0.0.1:5000")
    parser.add_argument("--root", type=Path, metavar="DIR", help="default: <data>/registry")


def configured(settings: Settings) -> Config:
    """The configuration that flags, file and environment add up to; raises InvalidArgument."""
    table = settings.table("registry", Table)
    host, port = parse_address(settings.arguments.listen or settings.instance.registry)
    root = settings.arguments.root or (Path(table.root) if table.root else settings.instance.data / "registry")
    try:
        check(table.access, table.limits)
        tables.check(table.upstreams, table.cache)
    except InvalidArgument as error:
        raise InvalidArgument(f"cannot use {settings.path}: {error}") from error
    return Config(
        host=host,
        port=port,
        root=root.absolute(),
        delete=table.delete,
        automount=table.automount,
        gc=_policy(table.gc),
        s3=table.s3,
        admin=settings.instance.run / ADMIN_SOCKET,
        access=table.access,
        limits=table.limits,
        tls=_certificate(table.tls),
        upstreams=table.upstreams,
        cache=table.cache,
    )


def _certificate(table: TlsTable | None) -> Certificate | None:
    if table is None:
        return None
    return Certificate(certificate=Path(table.certificate), key=Path(table.key), minimum=table.minimum)


def _policy(table: CollectionTable) -> Policy:
    values = msgspec.structs.asdict(table)
    for name, value in values.items():
        if value < 0:
            raise InvalidArgument(f"cannot use [registry.gc] {name}: {value} is negative")
    return Policy(**values)


def parse_address(text: str) -> tuple[str, int]:
    """Read `host:port`; an IPv6 host is in brackets, port 0 lets the kernel choose."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f"cannot listen on {text!r}: not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)
