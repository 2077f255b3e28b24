"""The body of `POST /containers/create`, and the ContainerSpec that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from bulkhead.api.schema import hostconfig as wire
from bulkhead.api.schema.mounts import parse_mounts
from bulkhead.api.schema.networks import Endpoint, wish
from bulkhead.api.schema.ports import parse_bindings, parse_exposed
from bulkhead.api.schema.security import parse_capabilities, parse_security_options
from bulkhead.api.versions import NEWEST, Version
from bulkhead.errors import InvalidArgument
from bulkhead.model.container import (
    ContainerSpec,
    DeviceMapping,
    DeviceRequest,
    Healthcheck,
    LogConfig,
    NetworkEndpoint,
    Resources,
    RestartPolicy,
    ThrottleDevice,
    Ulimit,
    WeightDevice,
)

# The version from which nobody joins another's IPC namespace unless it was made for that.
_PRIVATE_IPC = Version(1, 40)
_NETWORK_DEFAULTS = ("", "default")


class HealthConfig(wire.Part):
    Test: list[str] | None = None
    Interval: wire.Int | None = None
    Timeout: wire.Int | None = None
    StartPeriod: wire.Int | None = None
    StartInterval: wire.Int | None = None
    Retries: wire.Int32 | None = None


class NetworkingSettings(wire.Part):
    EndpointsConfig: dict[str, Endpoint | None] | None = None


class ContainerConfig(wire.Part):
    """The portable half: `Config` of inspect, and the top level of a create body."""

    Hostname: str | None = None
    Domainname: str | None = None
    User: str | None = None
    AttachStdin: bool | None = None
    AttachStdout: bool | None = None
    AttachStderr: bool | None = None
    ExposedPorts: dict[str, Any] | None = None
    Tty: bool | None = None
    OpenStdin: bool | None = None
    StdinOnce: bool | None = None
    Env: list[str] | None = None
    Cmd: str | list[str] | None = None
    Healthcheck: HealthConfig | None = None
    ArgsEscaped: bool | None = None
    Image: str | None = None
    Volumes: dict[str, Any] | None = None
    WorkingDir: str | None = None
    Entrypoint: str | list[str] | None = None
    NetworkDisabled: bool | None = None
    MacAddress: str | None = None
    OnBuild: list[str] | None = None
    Labels: dict[str, str] | None = None
    StopSignal: str | None = None
    StopTimeout: wire.Int | None = None
    Shell: list[str] | None = None

    def argv(self, field: str) -> tuple[str, ...] | None:
        """Cmd or Entrypoint, which older clients send as one string."""
        value: str | list[str] | None = getattr(self, field)
        return (value,) if isinstance(value, str) else None if value is None else tuple(value)


class CreateBody(ContainerConfig):
    HostConfig: wire.HostConfig | None = None
    NetworkingConfig: NetworkingSettings | None = None


def is_empty(body: CreateBody) -> bool:
    """`null`, `{}` and a lone HostConfig: Docker's "Config cannot be empty"."""
    own = {name for name in body.__struct_fields__ if getattr(body, name) is not None}
    return not own - {"HostConfig", "NetworkingConfig"}


def as_of(body: CreateBody, version: Version) -> CreateBody:
    """The body with what clients of `version` take for granted."""
    host = body.HostConfig or wire.HostConfig()
    if version >= _PRIVATE_IPC or host.IpcMode:
        return body
    return msgspec.structs.replace(body, HostConfig=msgspec.structs.replace(host, IpcMode="shareable"))


def spec_of(
    body: CreateBody, *, platform: str = "", exists: Callable[[str], bool], version: Version = NEWEST
) -> ContainerSpec:
    """The spec a checked body of `version` asks for; `exists` tells whether a host path is there.

    Raises InvalidArgument for mounts, ports, capabilities and security options that are none.
    """
    host = body.HostConfig or wire.HostConfig()
    return ContainerSpec(
        **_security_fields(host),
        **_config_fields(body),
        **_fields(host, _OF_HOST),
        network_mode=_network_mode(host),
        mac_address=_mac_address(body, host.NetworkMode or ""),
        resources=resources_of(host),
        mounts=parse_mounts(host, exists, version=version) if host.Binds or host.Mounts or host.Tmpfs else (),
        masked_paths=_optional(host.MaskedPaths),
        readonly_paths=_optional(host.ReadonlyPaths),
        platform=platform,
        endpoints=_endpoints(body),
        engine_host_config=wire.encode(_remembered(host)),
        engine_networking_config=msgspec.json.encode(body.NetworkingConfig) if body.NetworkingConfig else b"",
    )


def _remembered(host: wire.HostConfig) -> wire.HostConfig:
    """What inspect shows of it: no limit of processes is nothing, and 0 only where an update has taken one away."""
    return msgspec.structs.replace(host, PidsLimit=None) if host.PidsLimit is not None and host.PidsLimit <= 0 else host


def config_spec(config: ContainerConfig) -> ContainerSpec:
    """What a lone Config says, as `POST /commit` has it."""
    return ContainerSpec(**_config_fields(config))


def _fields(part: wire.Part, table: Mapping[str, tuple[str, Callable[[Any], Any]]]) -> dict[str, Any]:
    """What a part says, by the names and as the values that `table` has of it."""
    rules = ((name, table[name]) for name in wire.said(part) if name in table)
    return {field: convert(getattr(part, name)) for name, (field, convert) in rules}


def _config_fields(config: ContainerConfig) -> dict[str, Any]:
    told = {"entrypoint": config.argv("Entrypoint"), "command": config.argv("Cmd"), "stop_timeout": config.StopTimeout}
    return told | _fields(config, _OF_CONFIG)


def _security_fields(host: wire.HostConfig) -> dict[str, Any]:
    if not host.SecurityOpt:
        return {}
    options = parse_security_options(host.SecurityOpt)
    return {
        "no_new_privileges": options.no_new_privileges,
        "seccomp_profile": options.seccomp_profile,
        "writable_cgroups": options.writable_cgroups,
    }


def _network_mode(host: wire.HostConfig) -> str:
    mode = host.NetworkMode or ""
    return "bridge" if mode in _NETWORK_DEFAULTS else mode


def _mac_address(body: CreateBody, mode: str) -> str:
    """Of the endpoint on the container's own network (1.44 and later), else the container-wide one."""
    networking = body.NetworkingConfig
    endpoints = (networking.EndpointsConfig if networking else None) or {}
    endpoint = endpoints.get(mode) or endpoints.get("bridge" if mode in _NETWORK_DEFAULTS else mode)
    return (endpoint.MacAddress if endpoint else None) or body.MacAddress or ""


def _endpoints(body: CreateBody) -> tuple[NetworkEndpoint, ...]:
    told = (body.NetworkingConfig.EndpointsConfig if body.NetworkingConfig else None) or {}
    return tuple(wish("bridge" if name == "default" else name, config) for name, config in told.items())


def check_endpoints(body: CreateBody, several: bool) -> None:
    """Raise InvalidArgument for more networks than can be joined at create; `several` since 1.44."""
    networking = body.NetworkingConfig
    names = sorted((networking.EndpointsConfig if networking else None) or ())
    if len(names) > 1 and not several:
        raise InvalidArgument(f"Container cannot be connected to network endpoints: {', '.join(names)}")


def _optional(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _healthcheck(check: HealthConfig) -> Healthcheck:
    return Healthcheck(
        test=tuple(check.Test or ()),
        interval=check.Interval or 0,
        timeout=check.Timeout or 0,
        start_period=check.StartPeriod or 0,
        start_interval=check.StartInterval or 0,
        retries=check.Retries or 0,
    )


def restart_policy_of(policy: wire.RestartSettings) -> RestartPolicy:
    """As the core has it."""
    return RestartPolicy(name=policy.Name or "no", maximum_retry_count=policy.MaximumRetryCount or 0)


def _log_config(config: wire.LogSettings) -> LogConfig:
    return LogConfig(driver=config.Type or "", options=config.Config or {})


def _ulimit(limit: wire.Ulimit) -> Ulimit:
    return Ulimit(name=limit.Name or "", soft=limit.Soft or 0, hard=limit.Hard or 0)


def _device(device: wire.Device) -> DeviceMapping:
    path = device.PathOnHost or ""
    return DeviceMapping(
        path_on_host=path,
        path_in_container=device.PathInContainer or path,
        permissions=device.CgroupPermissions or "rwm",
    )


def _all(convert: Callable[[Any], Any]) -> Callable[[Iterable[Any]], tuple[Any, ...]]:
    return lambda values: tuple(convert(each) for each in values)


def _device_request(request: wire.DeviceRequest) -> DeviceRequest:
    return DeviceRequest(
        driver=request.Driver or "", capabilities=tuple(" ".join(each) for each in request.Capabilities or ())
    )


def resources_of(host: wire.HostConfig) -> Resources:
    """The limits that a HostConfig asks for."""
    memory, swap = host.Memory or 0, host.MemorySwap or 0
    return Resources(
        **_fields(host, _OF_RESOURCES),
        memory_swap=2 * memory if memory > 0 and swap == 0 else swap,
        # -1 is how the CLI says "not set".
        memory_swappiness=None if host.MemorySwappiness == -1 else host.MemorySwappiness,
    )


def _throttles(devices: list[wire.ThrottleDevice]) -> tuple[ThrottleDevice, ...]:
    return tuple(ThrottleDevice(path=each.Path or "", rate=each.Rate or 0) for each in devices)


def _weights(devices: list[wire.WeightDevice]) -> tuple[WeightDevice, ...]:
    return tuple(WeightDevice(path=each.Path or "", weight=each.Weight or 0) for each in devices)


def bind_sources(host: wire.HostConfig) -> tuple[str, ...]:
    """Host paths whose existence decides: those of `--mount type=bind`, which are not created."""
    return tuple(mount.Source for mount in host.Mounts or () if mount.Type == "bind" and mount.Source)


def _same(value: Any) -> Any:
    return value


# What becomes of a field that says something: its name in the core, and its value there.
_OF_CONFIG: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "Image": ("image", _same),
    "Hostname": ("hostname", _same),
    "Domainname": ("domainname", _same),
    "User": ("user", _same),
    "WorkingDir": ("working_dir", _same),
    "Env": ("env", tuple),
    "Labels": ("labels", _same),
    "Tty": ("tty", _same),
    "OpenStdin": ("open_stdin", _same),
    "StdinOnce": ("stdin_once", _same),
    "AttachStdin": ("attach_stdin", _same),
    "AttachStdout": ("attach_stdout", _same),
    "AttachStderr": ("attach_stderr", _same),
    "ExposedPorts": ("exposed_ports", parse_exposed),
    "Volumes": ("volumes", tuple),
    "StopSignal": ("stop_signal", _same),
    "Healthcheck": ("healthcheck", _healthcheck),
    "Shell": ("shell", tuple),
    "NetworkDisabled": ("network_disabled", _same),
}
_OF_HOST: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "PortBindings": ("ports", parse_bindings),
    "PublishAllPorts": ("publish_all_ports", _same),
    "RestartPolicy": ("restart_policy", restart_policy_of),
    "AutoRemove": ("auto_remove", _same),
    "LogConfig": ("log_config", _log_config),
    "IpcMode": ("ipc_mode", _same),
    "PidMode": ("pid_mode", _same),
    "UTSMode": ("uts_mode", _same),
    "CgroupnsMode": ("cgroupns_mode", _same),
    "UsernsMode": ("userns_mode", _same),
    "Privileged": ("privileged", _same),
    "ReadonlyRootfs": ("read_only_rootfs", _same),
    "CapAdd": ("cap_add", partial(parse_capabilities, field="CapAdd")),
    "CapDrop": ("cap_drop", partial(parse_capabilities, field="CapDrop")),
    "GroupAdd": ("group_add", tuple),
    "Sysctls": ("sysctls", _same),
    "Ulimits": ("ulimits", _all(_ulimit)),
    "Devices": ("devices", _all(_device)),
    "OomScoreAdj": ("oom_score_adj", _same),
    "ShmSize": ("shm_size", _same),
    "Dns": ("dns", tuple),
    "DnsSearch": ("dns_search", tuple),
    "DnsOptions": ("dns_options", tuple),
    "ExtraHosts": ("extra_hosts", tuple),
    "CgroupParent": ("cgroup_parent", _same),
    "Runtime": ("runtime", _same),
    "Init": ("init", _same),
    "Annotations": ("annotations", _same),
    "DeviceCgroupRules": ("device_cgroup_rules", tuple),
    "VolumesFrom": ("volumes_from", tuple),
    "Links": ("links", tuple),
    "DeviceRequests": ("device_requests", _all(_device_request)),
    "ConsoleSize": ("console_size", lambda size: tuple(size) if any(size) else ()),
}
_OF_RESOURCES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "Memory": ("memory", _same),
    "MemoryReservation": ("memory_reservation", _same),
    "OomKillDisable": ("oom_kill_disable", _same),
    "NanoCpus": ("nano_cpus", _same),
    "CpuShares": ("cpu_shares", _same),
    "CpuPeriod": ("cpu_period", _same),
    "CpuQuota": ("cpu_quota", _same),
    "CpusetCpus": ("cpuset_cpus", _same),
    "CpusetMems": ("cpuset_mems", _same),
    "PidsLimit": ("pids_limit", lambda limit: max(limit, -1)),
    "BlkioWeight": ("blkio_weight", _same),
    "BlkioDeviceReadBps": ("device_read_bps", _throttles),
    "BlkioDeviceWriteBps": ("device_write_bps", _throttles),
    "BlkioDeviceReadIOps": ("device_read_iops", _throttles),
    "BlkioDeviceWriteIOps": ("device_write_iops", _throttles),
    "BlkioWeightDevice": ("blkio_weight_devices", _weights),
}
