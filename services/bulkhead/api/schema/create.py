"""The body of `POST /containers/create`, and the ContainerSpec that it asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from bulkhead.api.schema import hostconfig as wire
from bulkhead.api.schema.mounts import parse_mounts
from bulkhead.api.schema.networks import Endpoint, wish
from bulkhead.api.schema.ports import parse_bindings, parse_exposed
from bulkhead.api.schema.security import parse_capabilities, parse_security_options
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


def spec_of(body: CreateBody, *, platform: str = "", exists: Callable[[str], bool]) -> ContainerSpec:
    """The spec a checked body asks for; `exists` tells whether a host path is there.

    Raises InvalidArgument for mounts, ports, capabilities and security options that are none.
    """
    host = body.HostConfig or wire.HostConfig()
    security = parse_security_options(host.SecurityOpt or ())
    return ContainerSpec(
        **_config_fields(body),
        **_namespace_fields(body, host),
        resources=resources_of(host),
        mounts=parse_mounts(host, exists),
        ports=parse_bindings(host.PortBindings or {}),
        publish_all_ports=bool(host.PublishAllPorts),
        restart_policy=restart_policy_of(host.RestartPolicy or wire.RestartSettings()),
        auto_remove=bool(host.AutoRemove),
        log_config=_log_config(host.LogConfig or wire.LogSettings()),
        privileged=bool(host.Privileged),
        read_only_rootfs=bool(host.ReadonlyRootfs),
        cap_add=parse_capabilities(host.CapAdd or (), "CapAdd"),
        cap_drop=parse_capabilities(host.CapDrop or (), "CapDrop"),
        group_add=tuple(host.GroupAdd or ()),
        no_new_privileges=security.no_new_privileges,
        seccomp_profile=security.seccomp_profile,
        masked_paths=_optional(host.MaskedPaths),
        readonly_paths=_optional(host.ReadonlyPaths),
        sysctls=host.Sysctls or {},
        ulimits=tuple(_ulimit(each) for each in host.Ulimits or ()),
        devices=tuple(_device(each) for each in host.Devices or ()),
        oom_score_adj=host.OomScoreAdj or 0,
        shm_size=host.ShmSize or 0,
        cgroup_parent=host.CgroupParent or "",
        runtime=host.Runtime or "",
        init=bool(host.Init),
        annotations=host.Annotations or {},
        platform=platform,
        device_cgroup_rules=tuple(host.DeviceCgroupRules or ()),
        volumes_from=tuple(host.VolumesFrom or ()),
        links=tuple(host.Links or ()),
        endpoints=_endpoints(body),
        device_requests=tuple(_device_request(each) for each in host.DeviceRequests or ()),
        writable_cgroups=security.writable_cgroups,
        engine_host_config=wire.encode(host),
        engine_networking_config=msgspec.json.encode(body.NetworkingConfig) if body.NetworkingConfig else b"",
    )


def config_spec(config: ContainerConfig) -> ContainerSpec:
    """What a lone Config says, as `POST /commit` has it."""
    return ContainerSpec(**_config_fields(config))


def _config_fields(body: ContainerConfig) -> dict[str, Any]:
    return {
        "image": body.Image or "",
        "hostname": body.Hostname or "",
        "domainname": body.Domainname or "",
        "user": body.User or "",
        "working_dir": body.WorkingDir or "",
        "entrypoint": body.argv("Entrypoint"),
        "command": body.argv("Cmd"),
        "env": tuple(body.Env or ()),
        "labels": body.Labels or {},
        "tty": bool(body.Tty),
        "open_stdin": bool(body.OpenStdin),
        "stdin_once": bool(body.StdinOnce),
        "attach_stdin": bool(body.AttachStdin),
        "attach_stdout": bool(body.AttachStdout),
        "attach_stderr": bool(body.AttachStderr),
        "exposed_ports": parse_exposed(body.ExposedPorts or ()),
        "volumes": tuple(body.Volumes or ()),
        "stop_signal": body.StopSignal or "",
        "stop_timeout": body.StopTimeout,
        "healthcheck": _healthcheck(body.Healthcheck),
        "shell": tuple(body.Shell or ()),
        "network_disabled": bool(body.NetworkDisabled),
    }


def _namespace_fields(body: CreateBody, host: wire.HostConfig) -> dict[str, Any]:
    mode = host.NetworkMode or ""
    return {
        "network_mode": "bridge" if mode in _NETWORK_DEFAULTS else mode,
        "ipc_mode": host.IpcMode or "",
        "pid_mode": host.PidMode or "",
        "uts_mode": host.UTSMode or "",
        "cgroupns_mode": host.CgroupnsMode or "",
        "userns_mode": host.UsernsMode or "",
        "dns": tuple(host.Dns or ()),
        "dns_search": tuple(host.DnsSearch or ()),
        "dns_options": tuple(host.DnsOptions or ()),
        "extra_hosts": tuple(host.ExtraHosts or ()),
        "mac_address": _mac_address(body, mode),
    }


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


def _healthcheck(check: HealthConfig | None) -> Healthcheck | None:
    if check is None:
        return None
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


def _device_request(request: wire.DeviceRequest) -> DeviceRequest:
    return DeviceRequest(
        driver=request.Driver or "", capabilities=tuple(" ".join(each) for each in request.Capabilities or ())
    )


def resources_of(host: wire.HostConfig) -> Resources:
    """The limits that a HostConfig asks for."""
    memory, swap = host.Memory or 0, host.MemorySwap or 0
    return Resources(
        memory=memory,
        memory_swap=2 * memory if memory > 0 and swap == 0 else swap,
        memory_reservation=host.MemoryReservation or 0,
        # -1 is how the CLI says "not set".
        memory_swappiness=None if host.MemorySwappiness == -1 else host.MemorySwappiness,
        oom_kill_disable=bool(host.OomKillDisable),
        nano_cpus=host.NanoCpus or 0,
        cpu_shares=host.CpuShares or 0,
        cpu_period=host.CpuPeriod or 0,
        cpu_quota=host.CpuQuota or 0,
        cpuset_cpus=host.CpusetCpus or "",
        cpuset_mems=host.CpusetMems or "",
        pids_limit=max(host.PidsLimit or 0, -1),
        blkio_weight=host.BlkioWeight or 0,
        device_read_bps=_throttles(host.BlkioDeviceReadBps),
        device_write_bps=_throttles(host.BlkioDeviceWriteBps),
        device_read_iops=_throttles(host.BlkioDeviceReadIOps),
        device_write_iops=_throttles(host.BlkioDeviceWriteIOps),
        blkio_weight_devices=tuple(
            WeightDevice(path=each.Path or "", weight=each.Weight or 0) for each in host.BlkioWeightDevice or ()
        ),
    )


def _throttles(devices: list[wire.ThrottleDevice] | None) -> tuple[ThrottleDevice, ...]:
    return tuple(ThrottleDevice(path=each.Path or "", rate=each.Rate or 0) for each in devices or ())


def bind_sources(host: wire.HostConfig) -> tuple[str, ...]:
    """Host paths whose existence decides: those of `--mount type=bind`, which are not created."""
    return tuple(mount.Source for mount in host.Mounts or () if mount.Type == "bind" and mount.Source)
