"""What a container is asked to be (`ContainerSpec`) and what it is (`Container`).

Fields are spelt as in protos/bulkhead/types/v1/container.proto. Times are Unix nanoseconds, 0 = never. A spec
as it comes from a client holds only what the client said; `bulkhead.model.image.merge` fills it from the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bulkhead.model.health import Health
from bulkhead.model.lifecycle import Phase
from bulkhead.model.losses import Loss
from bulkhead.model.network import Endpoint
from bulkhead.model.remapping import Remapping
from bulkhead.model.replacing import replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck:
    """A probe of the container's health; durations in nanoseconds, 0 = Docker's default."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ulimit:
    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMapping:
    path_on_host: str
    path_in_container: str = ""
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleDevice:
    path: str
    rate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightDevice:
    path: str
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRequest:
    """Devices asked for by what they can do; `capabilities` has an entry for each alternative, words by blanks."""

    driver: str = ""
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Limits as Docker states them: bytes, microseconds, nano CPUs; 0 = unset."""

    memory: int = 0
    memory_swap: int = 0
    memory_reservation: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    nano_cpus: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int = 0
    blkio_weight: int = 0
    device_read_bps: tuple[ThrottleDevice, ...] = ()
    device_write_bps: tuple[ThrottleDevice, ...] = ()
    device_read_iops: tuple[ThrottleDevice, ...] = ()
    device_write_iops: tuple[ThrottleDevice, ...] = ()
    blkio_weight_devices: tuple[WeightDevice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A bind, volume or tmpfs; `source` is a host path, a volume's name or empty.

    One that is `read_only` is so with all that is mounted below its source, unless that is `writable_below`.
    """

    type: str
    target: str
    source: str = ""
    read_only: bool = False
    writable_below: bool = False
    propagation: str = ""
    non_recursive: bool = False
    create_source: bool = False
    no_copy: bool = False
    subpath: str = ""
    volume_driver: str = ""
    volume_labels: Mapping[str, str] = field(default_factory=dict)
    volume_options: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    mode: int = 0
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPort:
    """A port of the container that the host answers.

    As asked: `host_port` 0 = one of the host's choice, with `host_port_end` the first free one of a range.
    """

    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""
    host_port: int = 0
    host_port_end: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkEndpoint:
    """Where a container is plugged in, or is to be: the wish of a user, and while it runs what came of it.

    A wish names a network as its user did until that is known. `fixed_address` and `fixed_mac` are asked for;
    `last_address` is given again if it is free. `ports` are those the host answers. What ends in 6 is IPv6's.
    """

    network_id: str = ""
    network_name: str = ""
    endpoint_id: str = ""
    address: str = ""
    prefix_len: int = 0
    gateway: str = ""
    mac: str = ""
    ports: tuple[PublishedPort, ...] = ()
    aliases: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    driver_options: Mapping[str, str] = field(default_factory=dict)
    gateway_priority: int = 0
    fixed_address: str = ""
    fixed_mac: str = ""
    last_address: str = ""
    address6: str = ""
    prefix_len6: int = 0
    gateway6: str = ""
    fixed_address6: str = ""
    last_address6: str = ""
    link_local_addresses: tuple[str, ...] = ()

    def unplugged(self) -> NetworkEndpoint:
        """The wish alone, with the address to be given again."""
        return replace(
            self,
            endpoint_id="",
            address="",
            prefix_len=0,
            gateway="",
            address6="",
            prefix_len6=0,
            gateway6="",
            mac="",
            ports=(),
            last_address=self.address or self.last_address,
            last_address6=self.address6 or self.last_address6,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    name: str = "no"
    maximum_retry_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    driver: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """Everything a client may ask of a container; `None` means "not said", an empty tuple "none".

    `links` of a record are `<id of the child>:<alias>`, those of a request name the child as its user did.
    """

    image: str = ""
    hostname: str = ""
    domainname: str = ""
    user: str = ""
    working_dir: str = ""
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    stop_timeout: int | None = None
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] = ()
    resources: Resources = field(default_factory=Resources)
    mounts: tuple[Mount, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    publish_all_ports: bool = False
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    auto_remove: bool = False
    log_config: LogConfig = field(default_factory=LogConfig)
    network_mode: str = ""
    ipc_mode: str = ""
    pid_mode: str = ""
    uts_mode: str = ""
    cgroupns_mode: str = ""
    userns_mode: str = ""
    privileged: bool = False
    read_only_rootfs: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    no_new_privileges: bool = False
    seccomp_profile: str = ""
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    sysctls: Mapping[str, str] = field(default_factory=dict)
    ulimits: tuple[Ulimit, ...] = ()
    devices: tuple[DeviceMapping, ...] = ()
    oom_score_adj: int = 0
    shm_size: int = 0
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    cgroup_parent: str = ""
    runtime: str = ""
    init: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)
    mac_address: str = ""
    platform: str = ""
    network_disabled: bool = False
    device_cgroup_rules: tuple[str, ...] = ()
    volumes_from: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    endpoints: tuple[NetworkEndpoint, ...] = ()
    device_requests: tuple[DeviceRequest, ...] = ()
    writable_cgroups: bool = False
    console_size: tuple[int, ...] = ()
    engine_host_config: bytes = b""
    engine_networking_config: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container's record.

    `endpoints` are the networks it is on, also of a stopped container, the first being its own; `attachments` is what
    networks gave to a live one. `restart_delay_ms` is the last delay of the
    restart policy, 0 after a start by a user. `ended_by` is what brought the last run to its end, if it was not its own
    doing: user, timeout (of a stop), health, oom; `losses` is what deaths and disks have taken of that run.
    `directives` are the labels of the create request that steer the engine (`model.directives`); `health_acted` is
    when an unhealthy container was acted upon. `unapplied`: its limits are on record, and the kernel may not know
    them yet. `remapping`: whom of the host its users are, if they are others; for good, whatever the engine is told
    later. `oom_kills`: how many processes of this run, or the last one, are known to have been killed for want
    of memory.
    """

    id: str
    name: str
    spec: ContainerSpec
    image_id: str
    path: str = ""
    args: tuple[str, ...] = ()
    phase: Phase = Phase.CREATED
    pid: int = 0
    pid_start_time: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    created_at: int = 0
    started_at: int = 0
    finished_at: int = 0
    restart_count: int = 0
    stopped_by_user: bool = False
    endpoints: tuple[NetworkEndpoint, ...] = ()
    health: Health | None = None
    lower_dirs: tuple[str, ...] = ()
    attachments: tuple[Endpoint, ...] = ()
    anonymous_volumes: tuple[str, ...] = ()
    restart_delay_ms: int = 0
    ended_by: str = ""
    losses: tuple[Loss, ...] = ()
    unapplied: bool = False
    directives: Mapping[str, str] = field(default_factory=dict)
    health_acted: tuple[int, ...] = ()
    remapping: Remapping | None = None
    oom_kills: int = 0

    @property
    def health_status(self) -> str:
        """Empty without a health check."""
        return self.health.status if self.health is not None else ""
