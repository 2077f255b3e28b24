"""HostConfig: what a client may say of the host's side of a container, and how inspect echoes it.

Fields are spelt as in the JSON. Null means "not said" everywhere, as in Go; unknown keys are dropped.
"""

from __future__ import annotations

from itertools import compress
from typing import Annotated, Any

import msgspec

from bulkhead.model.container import ContainerSpec

DEFAULT_SHM_SIZE = 64 << 20
OWN_RUNTIME = "bulkhead"
DEFAULT_RUNTIME = "runc"

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


# As wide as Go's types, and as the fields of our own messages.
Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Unsigned = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Unsigned32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


class Part(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A JSON object of the API: unknown keys dropped, absent and null keys left out again."""


def said(part: Part) -> tuple[str, ...]:
    """The fields that say something: most are absent, and many clients send the others' zeros and empty lists."""
    return tuple(compress(part.__struct_fields__, msgspec.structs.astuple(part)))


class LogSettings(Part):
    Type: str | None = None
    Config: dict[str, str] | None = None


class PortBinding(Part):
    HostIp: str | None = None
    HostPort: str | None = None


class RestartSettings(Part):
    Name: str | None = None
    MaximumRetryCount: Int32 | None = None


class BindSettings(Part):
    Propagation: str | None = None
    NonRecursive: bool | None = None
    CreateMountpoint: bool | None = None
    ReadOnlyNonRecursive: bool | None = None
    ReadOnlyForceRecursive: bool | None = None


class VolumeDriverSettings(Part):
    Name: str | None = None
    Options: dict[str, str] | None = None


class VolumeSettings(Part):
    NoCopy: bool | None = None
    Labels: dict[str, str] | None = None
    DriverConfig: VolumeDriverSettings | None = None
    Subpath: str | None = None


class TmpfsSettings(Part):
    SizeBytes: Int | None = None
    Mode: Unsigned32 | None = None
    Options: list[list[str]] | None = None


class Mount(Part):
    Type: str | None = None
    Source: str | None = None
    Target: str | None = None
    ReadOnly: bool | None = None
    Consistency: str | None = None
    BindOptions: BindSettings | None = None
    VolumeOptions: VolumeSettings | None = None
    TmpfsOptions: TmpfsSettings | None = None


class Ulimit(Part):
    Name: str | None = None
    Soft: Int | None = None
    Hard: Int | None = None


class Device(Part):
    PathOnHost: str | None = None
    PathInContainer: str | None = None
    CgroupPermissions: str | None = None


class DeviceRequest(Part):
    Driver: str | None = None
    Count: Int | None = None
    DeviceIDs: list[str] | None = None
    Capabilities: list[list[str]] | None = None
    Options: dict[str, str] | None = None


class ThrottleDevice(Part):
    Path: str | None = None
    Rate: Unsigned | None = None


class WeightDevice(Part):
    Path: str | None = None
    Weight: Int | None = None


class HostConfig(Part):
    Binds: list[str] | None = None
    ContainerIDFile: str | None = None
    LogConfig: LogSettings | None = None
    NetworkMode: str | None = None
    PortBindings: dict[str, list[PortBinding] | None] | None = None
    RestartPolicy: RestartSettings | None = None
    AutoRemove: bool | None = None
    VolumeDriver: str | None = None
    VolumesFrom: list[str] | None = None
    Mounts: list[Mount] | None = None
    ConsoleSize: list[Unsigned32] | None = None
    Annotations: dict[str, str] | None = None
    CapAdd: list[str] | None = None
    CapDrop: list[str] | None = None
    CgroupnsMode: str | None = None
    Dns: list[str] | None = None
    DnsOptions: list[str] | None = None
    DnsSearch: list[str] | None = None
    ExtraHosts: list[str] | None = None
    GroupAdd: list[str] | None = None
    IpcMode: str | None = None
    Cgroup: str | None = None
    Links: list[str] | None = None
    OomScoreAdj: Int32 | None = None
    PidMode: str | None = None
    Privileged: bool | None = None
    PublishAllPorts: bool | None = None
    ReadonlyRootfs: bool | None = None
    SecurityOpt: list[str] | None = None
    StorageOpt: dict[str, str] | None = None
    Tmpfs: dict[str, str] | None = None
    UTSMode: str | None = None
    UsernsMode: str | None = None
    ShmSize: Int | None = None
    Sysctls: dict[str, str] | None = None
    Runtime: str | None = None
    Isolation: str | None = None
    CpuShares: Int | None = None
    Memory: Int | None = None
    NanoCpus: Int | None = None
    CgroupParent: str | None = None
    BlkioWeight: Int32 | None = None
    BlkioWeightDevice: list[WeightDevice] | None = None
    BlkioDeviceReadBps: list[ThrottleDevice] | None = None
    BlkioDeviceWriteBps: list[ThrottleDevice] | None = None
    BlkioDeviceReadIOps: list[ThrottleDevice] | None = None
    BlkioDeviceWriteIOps: list[ThrottleDevice] | None = None
    CpuPeriod: Int | None = None
    CpuQuota: Int | None = None
    CpuRealtimePeriod: Int | None = None
    CpuRealtimeRuntime: Int | None = None
    CpusetCpus: str | None = None
    CpusetMems: str | None = None
    Devices: list[Device] | None = None
    DeviceCgroupRules: list[str] | None = None
    DeviceRequests: list[DeviceRequest] | None = None
    KernelMemory: Int | None = None
    KernelMemoryTCP: Int | None = None
    MemoryReservation: Int | None = None
    MemorySwap: Int | None = None
    MemorySwappiness: Int | None = None
    OomKillDisable: bool | None = None
    PidsLimit: Int | None = None
    Ulimits: list[Ulimit] | None = None
    CpuCount: Int | None = None
    CpuPercent: Int | None = None
    IOMaximumIOps: Int | None = None
    IOMaximumBandwidth: Int | None = None
    MaskedPaths: list[str] | None = None
    ReadonlyPaths: list[str] | None = None
    Init: bool | None = None


# What Docker shows where the client said nothing. Keys that are not here are left out when not said.
_DEFAULTS: dict[str, Any] = {
    "Binds": None,
    "ContainerIDFile": "",
    "LogConfig": {"Type": "json-file", "Config": {}},
    "NetworkMode": "bridge",
    "PortBindings": {},
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "AutoRemove": False,
    "VolumeDriver": "",
    "VolumesFrom": None,
    "ConsoleSize": [0, 0],
    "CapAdd": None,
    "CapDrop": None,
    "CgroupnsMode": "host",
    "Dns": [],
    "DnsOptions": [],
    "DnsSearch": [],
    "ExtraHosts": None,
    "GroupAdd": None,
    "IpcMode": "private",
    "Cgroup": "",
    "Links": None,
    "OomScoreAdj": 0,
    "PidMode": "",
    "Privileged": False,
    "PublishAllPorts": False,
    "ReadonlyRootfs": False,
    "SecurityOpt": None,
    "UTSMode": "",
    "UsernsMode": "",
    "ShmSize": DEFAULT_SHM_SIZE,
    "Runtime": DEFAULT_RUNTIME,
    "Isolation": "",
    "CpuShares": 0,
    "Memory": 0,
    "NanoCpus": 0,
    "CgroupParent": "",
    "BlkioWeight": 0,
    "BlkioWeightDevice": [],
    "BlkioDeviceReadBps": [],
    "BlkioDeviceWriteBps": [],
    "BlkioDeviceReadIOps": [],
    "BlkioDeviceWriteIOps": [],
    "CpuPeriod": 0,
    "CpuQuota": 0,
    "CpuRealtimePeriod": 0,
    "CpuRealtimeRuntime": 0,
    "CpusetCpus": "",
    "CpusetMems": "",
    "Devices": [],
    "DeviceCgroupRules": None,
    "DeviceRequests": None,
    "MemoryReservation": 0,
    "MemorySwap": 0,
    "MemorySwappiness": None,
    "OomKillDisable": False,
    "PidsLimit": None,
    "Ulimits": [],
    "CpuCount": 0,
    "CpuPercent": 0,
    "IOMaximumIOps": 0,
    "IOMaximumBandwidth": 0,
    "MaskedPaths": list(MASKED_PATHS),
    "ReadonlyPaths": list(READONLY_PATHS),
}
# Decoded afresh for each answer, so that none can change the next one's.
_DEFAULTS_JSON = msgspec.json.encode(_DEFAULTS)
# What each of a list has though the client said only a part of it, as Go's structs have.
_WHOLE: dict[str, dict[str, Any]] = {
    "Ulimits": {"Name": "", "Hard": 0, "Soft": 0},
    "Devices": {"PathOnHost": "", "PathInContainer": "", "CgroupPermissions": ""},
    "DeviceRequests": {"Driver": "", "Count": 0, "DeviceIDs": None, "Capabilities": None, "Options": None},
}
_WHOLE_BINDING = {"HostIp": "", "HostPort": ""}
# An empty string or zero of these means the default too.
_EMPTY_IS_DEFAULT = ("NetworkMode", "ShmSize", "IpcMode", "CgroupnsMode")


def encode(config: HostConfig) -> bytes:
    """The client's words, to be kept with the container and echoed."""
    return msgspec.json.encode(config)


def echo(spec: ContainerSpec, cgroup_version: int = 1) -> dict[str, Any]:
    """HostConfig as inspect shows it: the client's words over Docker's defaults."""
    said: dict[str, Any] = msgspec.json.decode(spec.engine_host_config or b"{}")
    for name in _EMPTY_IS_DEFAULT:
        if not said.get(name):
            said.pop(name, None)
    shown: dict[str, Any] = {**msgspec.json.decode(_DEFAULTS_JSON), **said}
    if shown["NetworkMode"] == "default":
        shown["NetworkMode"] = "bridge"
    if "CgroupnsMode" not in said and cgroup_version == 2:
        shown["CgroupnsMode"] = "private"
    # The manager chose when the client did not; our own core goes by the name that Docker's users expect.
    if not said.get("Runtime"):
        shown["Runtime"] = spec.runtime if spec.runtime not in ("", OWN_RUNTIME) else DEFAULT_RUNTIME
    # Other containers by id, whatever the client called them.
    modes = {"IpcMode": spec.ipc_mode, "PidMode": spec.pid_mode, "NetworkMode": spec.network_mode}
    shown |= {name: mode for name, mode in modes.items() if mode.startswith("container:")}
    shown |= _whole(said)
    shown["RestartPolicy"] = _filled("RestartPolicy", said)
    shown["LogConfig"] = _filled("LogConfig", said)
    if spec.log_config.driver:
        # With what the daemon has added of its own.
        shown["LogConfig"] = {"Type": spec.log_config.driver, "Config": dict(spec.log_config.options)}
    if shown["Memory"] and not shown["MemorySwap"]:
        shown["MemorySwap"] = 2 * shown["Memory"]
    if shown["MemorySwappiness"] == -1:
        shown["MemorySwappiness"] = None
    if spec.resources.pids_limit > 0:
        shown["PidsLimit"] = spec.resources.pids_limit
    if shown["SecurityOpt"] is None and (spec.privileged or "host" in (spec.ipc_mode, spec.pid_mode)):
        shown["SecurityOpt"] = ["label=disable"]
    if spec.privileged:
        shown["MaskedPaths"] = shown["ReadonlyPaths"] = None
    return shown


def _whole(said: dict[str, Any]) -> dict[str, Any]:
    """The lists of objects that the client gave."""
    made: dict[str, Any] = {
        name: [{**whole, **each} for each in said[name]] for name, whole in _WHOLE.items() if said.get(name)
    }
    if said.get("PortBindings"):
        made["PortBindings"] = {
            port: told and [{**_WHOLE_BINDING, **each} for each in told] for port, told in said["PortBindings"].items()
        }
    return made


def _filled(name: str, said: dict[str, Any]) -> dict[str, Any]:
    """An object of which the client may have said only a part."""
    own = {key: value for key, value in (said.get(name) or {}).items() if value}
    return {**msgspec.json.decode(_DEFAULTS_JSON)[name], **own}
