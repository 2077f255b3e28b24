"""What the image part of the manager is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from bulkhead.content.proxies import Proxies
from bulkhead.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Percent of the file system in use; `high` 0 means never. `keep` is in seconds."""

    high: int = 0
    low: int = 0
    keep: float = 2 * 3600.0

    def __post_init__(self) -> None:
        if self.high and not 0 < self.low < self.high <= 100:
            raise InvalidArgument(
                f"cannot use watermarks {self.low} and {self.high}: percents are wanted, the low one below the high one"
            )


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
    watermarks: Marks = field(default_factory=Marks)
