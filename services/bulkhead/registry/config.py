"""What the registry is told: `[registry]` of the configuration file, and its flags above it."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bulkhead.errors import InvalidArgument
from bulkhead.settings import Settings


class Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The table `[registry]` as written."""

    root: str = ""
    delete: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The registry's own settings."""

    host: str
    port: int
    root: Path
    delete: bool = True
    """Whether manifests, tags and blobs may be deleted."""


def add_arguments(parser: ArgumentParser) -> None:
    """The registry's flags."""
    parser.add_argument("--listen", metavar="HOST:PORT", help="default: BULKHEAD_REGISTRY, else 127.0.0.1:5000")
    parser.add_argument("--root", type=Path, metavar="DIR", help="default: <data>/registry")


def configured(settings: Settings) -> Config:
    """The configuration that flags, file and environment add up to; raises InvalidArgument."""
    table = settings.table("registry", Table)
    host, port = parse_address(settings.arguments.listen or settings.instance.registry)
    root = settings.arguments.root or (Path(table.root) if table.root else settings.instance.data / "registry")
    return Config(host=host, port=port, root=root.absolute(), delete=table.delete)


def parse_address(text: str) -> tuple[str, int]:
    """Read `host:port`; an IPv6 host is in brackets, port 0 lets the kernel choose."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f"cannot listen on {text!r}: not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)
