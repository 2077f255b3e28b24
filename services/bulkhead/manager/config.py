"""The table [manager] of the config file."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from bulkhead.content.proxies import Proxies, no_proxy
from bulkhead.manager.images.config import ImagesConfig, Marks


class RuntimeConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A table [manager.runtimes.<name>]: a program of the OCI runtimes' command line, and what it is told first."""

    path: str
    args: list[str] = []


class ManagerConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Keys and their defaults.

    `mirrors`: registries asked before docker.io; absent means the installation's own. `insecure_registries`: hosts
    spoken to by plain HTTP. `*_proxy`: win over the environment variables of these names. `image_gc_*`: percents of the
    disk in use, see images/watermarks.py; 0 = only users remove images. `log_*`: what a container that names no log
    driver gets; unlike Docker's, logs are capped.
    `pids_limit`: processes and threads of a container that names no limit (0: any number).
    `events_keep`, `events_keep_hours`: how much of the journal is kept. `runtimes`, `default_runtime`: see `runtimes`.
    `health_action`, `health_budget`: what becomes of unhealthy containers without labels of their own, and how often in
    an hour at most (`model.directives`).
    `open_forward`: where another firewall (dockerd's, ufw) drops forwarded packets by default, have it accept the
    bridges of containers (`networks.opening`).
    `userns_remap`: whose subordinate ids containers get, as dockerd's setting of that name (`remapping`).
    """

    mirrors: list[str] | None = None
    insecure_registries: list[str] = []
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    http_proxy: str | None = None
    https_proxy: str | None = None
    no_proxy: str | None = None
    image_gc_high: int = 0
    image_gc_low: int = 0
    image_gc_keep_minutes: int = 120
    log_driver: str = "json-file"
    log_options: dict[str, str] = {}
    log_max_size: str = "20m"
    log_max_file: int = 3
    events_keep: int = 100_000
    events_keep_hours: int = 24 * 30
    pids_limit: Annotated[int, msgspec.Meta(ge=0)] = 0
    stop_timeout: int = 10
    runtimes: dict[str, RuntimeConfig] = {}
    default_runtime: str = "bulkhead"
    health_action: Literal["", "restart", "stop", "kill"] = ""
    health_budget: int = 5
    open_forward: bool = True
    journald_socket: str = "/run/systemd/journal/socket"
    userns_remap: str = ""
    subuid_file: str = "/etc/subuid"
    subgid_file: str = "/etc/subgid"

    def images(self) -> ImagesConfig:
        """The part that concerns images."""
        return ImagesConfig(
            mirrors=None if self.mirrors is None else tuple(self.mirrors),
            insecure_registries=tuple(self.insecure_registries),
            max_concurrent_downloads=self.max_concurrent_downloads,
            max_concurrent_uploads=self.max_concurrent_uploads,
            proxies=self._proxies(),
            watermarks=Marks(
                high=self.image_gc_high,
                low=self.image_gc_low or self.image_gc_high * 9 // 10,
                keep=self.image_gc_keep_minutes * 60.0,
            ),
        )

    def _proxies(self) -> Proxies:
        found = Proxies.of()
        return Proxies(
            http=found.http if self.http_proxy is None else self.http_proxy,
            https=found.https if self.https_proxy is None else self.https_proxy,
            exempt=found.exempt if self.no_proxy is None else no_proxy(self.no_proxy),
        )
