"""What Docker refuses when a container is created, in its order and its words.

Facts of the machine (how many CPUs, which of them) come in as a `Host`, so that the rules stay pure.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

import msgspec

from bulkhead.api.ports.system import Host
from bulkhead.api.schema import hostconfig as wire
from bulkhead.api.schema.create import ContainerConfig
from bulkhead.api.schema.signals import check_signal
from bulkhead.errors import InvalidArgument
from bulkhead.model import logdriver
from bulkhead.model.platforms import split_platform

MIB = 1 << 20
SMALLEST_MEMORY = 6 * MIB
MILLISECOND = 10**6
LONGEST_HOSTNAME = 64
_CONTAINER_NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_RESTART_POLICIES = frozenset(("", "no", "always", "unless-stopped", "on-failure"))
# What the rules of each are about; all of it may be left open.
_OF_MEMORY = frozenset(("Memory", "MemorySwap", "MemoryReservation", "MemorySwappiness"))
_OF_CPU = frozenset(
    ("NanoCpus", "CpuShares", "CpuPeriod", "CpuQuota", "CpuRealtimePeriod", "CpuRealtimeRuntime", "CpusetCpus",
     "CpusetMems")
)  # fmt: skip
_IPC_MODES = frozenset(("", "none", "private", "host", "shareable"))
_OWN_OR_HOST = frozenset(("", "host"))


def check_name(name: str) -> None:
    """A container's name; empty lets the engine choose one."""
    if name and not _CONTAINER_NAME.fullmatch(name):
        raise InvalidArgument(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")


def check_platform(platform: str) -> None:
    """`os[/architecture[/variant]]`; empty is any."""
    if platform:
        split_platform(platform)


def check(config: ContainerConfig, host_config: wire.HostConfig, host: Host) -> None:
    """Raise InvalidArgument for the first rule that the request breaks."""
    _check_network_mode(config, host_config)
    _check_config(config)
    _check_host_config(host_config)
    _check_resources(host_config, host)


def check_update(host_config: wire.HostConfig, host: Host) -> None:
    """The same for an update, where a limit of swap may come without that of memory: it has one already."""
    if host_config.RestartPolicy is not None:
        _check_host_config(host_config)
    memory = host_config.Memory or (host_config.MemorySwap if (host_config.MemorySwap or 0) > 0 else None)
    _check_resources(msgspec.structs.replace(host_config, Memory=memory), host)


def _check_network_mode(config: ContainerConfig, host: wire.HostConfig) -> None:
    mode = host.NetworkMode or ""
    shared, of_host = mode.split(":")[0] == "container", mode == "host"
    if not (shared or of_host or host.UTSMode == "host"):
        return
    if shared and not mode.partition(":")[2]:
        raise InvalidArgument("Invalid network mode: invalid container format container:<name|id>")
    conflicts = (
        (shared and config.Hostname, "hostname and the network mode"),
        (
            shared and host.Links,
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (shared and host.Dns, "dns and the network mode"),
        (shared and host.ExtraHosts, "custom host-to-IP mapping and the network mode"),
        ((shared or of_host) and config.MacAddress, "mac-address and the network mode"),
        (
            shared and (host.PortBindings or host.PublishAllPorts),
            "port publishing and the container type network mode",
        ),
        (shared and config.ExposedPorts, "port exposing and the container type network mode"),
        (host.UTSMode == "host" and config.Hostname, "hostname and the UTS mode"),
        (
            of_host and host.Links,
            "host type networking can't be used with links. This would result in undefined behavior",
        ),
    )
    for broken, text in conflicts:
        if broken:
            raise InvalidArgument(f"conflicting options: {text}")


def _check_config(config: ContainerConfig) -> None:
    if len(config.Hostname or "") > LONGEST_HOSTNAME:
        raise InvalidArgument(f"invalid hostname: {config.Hostname}: longer than {LONGEST_HOSTNAME} bytes")
    if config.WorkingDir and not config.WorkingDir.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{config.WorkingDir}' is invalid, it needs to be an absolute path"
        )
    for entry in config.Env or ():
        if not entry or entry.startswith("=") or "\0" in entry:
            raise InvalidArgument(f"invalid environment variable: {entry}")
    for word in (*(config.argv("Entrypoint") or ()), *(config.argv("Cmd") or ())):
        if "\0" in word:
            raise InvalidArgument("invalid command: it contains a null byte")
    if config.StopSignal:
        check_signal(config.StopSignal)
    if config.Healthcheck is not None:
        _check_healthcheck(config)


def _check_healthcheck(config: ContainerConfig) -> None:
    check = config.Healthcheck
    assert check is not None
    for field in ("Interval", "Timeout", "StartPeriod", "StartInterval"):
        value = getattr(check, field) or 0
        if value != 0 and value < MILLISECOND:
            raise InvalidArgument(f"{field} in Healthcheck cannot be less than 1ms")
    if (check.Retries or 0) < 0:
        raise InvalidArgument("Retries in Healthcheck cannot be negative")


def _check_host_config(host: wire.HostConfig) -> None:
    policy = host.RestartPolicy or wire.RestartSettings()
    name, retries = policy.Name or "", policy.MaximumRetryCount or 0
    if host.AutoRemove and name not in ("", "no"):
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    for entry in host.ExtraHosts or ():
        _check_extra_host(entry)
    if name not in _RESTART_POLICIES:
        raise InvalidArgument(f"invalid restart policy '{name}'")
    if name != "on-failure" and retries != 0:
        raise InvalidArgument(f"maximum retry count cannot be used with restart policy '{name}'")
    if retries < 0:
        raise InvalidArgument("maximum retry count cannot be negative")
    if host.Isolation not in (None, "", "default"):
        raise InvalidArgument(f"Invalid isolation: \"{host.Isolation}\" - linux only supports 'default'")
    if host.StorageOpt:
        raise InvalidArgument("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
    _check_log_config(host.LogConfig or wire.LogSettings())
    _check_modes(host)
    if "" in (host.Annotations or {}):
        raise InvalidArgument("invalid Annotations: the empty string is not permitted as an annotation key")


def _check_modes(host: wire.HostConfig) -> None:
    """Of a namespace that the client had something to say about."""
    ipc, pid, uts = host.IpcMode or "", host.PidMode or "", host.UTSMode or ""
    if ipc not in _IPC_MODES and ipc.partition(":")[0] != "container":
        raise InvalidArgument(f"invalid IPC mode: {ipc}")
    if pid not in _OWN_OR_HOST and not (pid.startswith("container:") and pid != "container:"):
        raise InvalidArgument(f"invalid PID mode: {pid}")
    if uts not in _OWN_OR_HOST:
        raise InvalidArgument(f"invalid UTS mode: {uts}")


def _check_extra_host(entry: str) -> None:
    name, separator, address = entry.partition(":")
    if not separator or not name:
        raise InvalidArgument(f'bad format for add-host: "{entry}"')
    if address == "host-gateway":
        return
    try:
        ip_address(address.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise InvalidArgument(f'invalid IP address in add-host: "{address}"') from None


def _check_log_config(config: wire.LogSettings) -> None:
    # Without a driver the daemon's own, which the manager knows.
    if config.Type:
        logdriver.check(config.Type, config.Config or {})


def _check_resources(host: wire.HostConfig, machine: Host) -> None:
    said = wire.said(host)
    if not _OF_MEMORY.isdisjoint(said):
        _check_memory(host)
    if not _OF_CPU.isdisjoint(said):
        _check_cpu(host, machine)
    if host.BlkioWeight and not 10 <= host.BlkioWeight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    if not -1000 <= (host.OomScoreAdj or 0) <= 1000:
        raise InvalidArgument(f"Invalid value {host.OomScoreAdj}, range for oom score adj is [-1000, 1000]")
    if (host.ShmSize or 0) < 0:
        raise InvalidArgument("SHM size can not be less than 0")


def _check_memory(host: wire.HostConfig) -> None:
    memory, swap = host.Memory or 0, host.MemorySwap or 0
    reservation, swappiness = host.MemoryReservation or 0, host.MemorySwappiness
    if memory != 0 and memory < SMALLEST_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if memory > 0 and swap > 0 and swap < memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if memory == 0 and swap > 0:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if swappiness is not None and not -1 <= swappiness <= 100:
        raise InvalidArgument(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")
    if reservation != 0 and reservation < SMALLEST_MEMORY:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if memory > 0 and reservation > memory:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")


def _check_cpu(host: wire.HostConfig, machine: Host) -> None:
    nano, period, quota, count = host.NanoCpus or 0, host.CpuPeriod or 0, host.CpuQuota or 0, len(machine.cpus)
    if nano > 0 and period > 0:
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if nano > 0 and quota > 0:
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if nano < 0 or nano > count * 10**9:
        raise InvalidArgument(f"Range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available")
    if (host.CpuShares or 0) < 0:
        raise InvalidArgument(f"invalid CPU shares ({host.CpuShares}): value must be a positive integer")
    if host.CpuRealtimePeriod or host.CpuRealtimeRuntime:
        raise InvalidArgument("Your kernel does not support CPU real-time scheduler")
    if period != 0 and not 1000 <= period <= 1_000_000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    _check_set(host.CpusetCpus or "", machine.cpus, machine.cpus_text, "cpuset cpus", "CPUs")
    _check_set(host.CpusetMems or "", machine.memory_nodes, machine.memory_nodes_text, "cpuset mems", "memory nodes")


def _check_set(text: str, there: frozenset[int], there_text: str, field: str, noun: str) -> None:
    if not text:
        return
    try:
        wanted = parse_set(text)
    except ValueError:
        raise InvalidArgument(f"Invalid value {text} for {field}: invalid format: {text}") from None
    if not wanted <= there:
        raise InvalidArgument(f"Requested {noun} are not available - requested {text}, available: {there_text}")


def parse_set(text: str) -> frozenset[int]:
    """`0-2,5` as numbers (cpuset(7), list format); ValueError for anything else."""
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(text)
        numbers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(numbers)
