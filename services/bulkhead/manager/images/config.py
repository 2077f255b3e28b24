"""What the image part of the manager is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from bulkhead.content.proxies import Proxies


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesConfig:
    """Keys of the table [manager] that concern images.

    `mirrors` are asked before docker.io, in their order; None means this installation's own registry.
    `insecure_registries` are hosts (host or host:port) spoken to by plain HTTP; loopback hosts always are.
    """

    mirrors: tuple[str, ...] | None = None
    insecure_registries: tuple[str, ...] = ()
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    proxies: Proxies = field(default_factory=Proxies)
