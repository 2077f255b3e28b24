"""Version, info and disk usage of the engine."""

from __future__ import annotations

from typing import Any

from bulkhead import __version__
from bulkhead.api.ports.system import EngineInfo, Machine
from bulkhead.api.versions import NEWEST, OLDEST
from bulkhead.model import logdriver

NAME = "Bulkhead Engine"
HUB = "https://index.docker.io/v1/"
# A build has no time or commit of its own before it is packaged; clients want strings.
_BUILD_TIME = "1970-01-01T00:00:00.000000000+00:00"
_COMMIT = "unknown"
_NO_SWARM = {
    "NodeID": "",
    "NodeAddr": "",
    "LocalNodeState": "inactive",
    "ControlAvailable": False,
    "Error": "",
    "RemoteManagers": None,
}


def version(machine: Machine) -> dict[str, Any]:
    """The answer of `GET /version`: needs no other service, so that health checks can rely on it."""
    facts = {
        "ApiVersion": str(NEWEST),
        "MinAPIVersion": str(OLDEST),
        "GitCommit": _COMMIT,
        "GoVersion": machine.language,
        "Os": "linux",
        "Arch": machine.go_architecture,
        "KernelVersion": machine.kernel,
        "BuildTime": _BUILD_TIME,
    }
    component = {"Name": "Engine", "Version": __version__, "Details": {**facts, "Experimental": "false"}}
    return {"Platform": {"Name": NAME}, "Components": [component], "Version": __version__, **facts}


def info(engine: EngineInfo, machine: Machine, now: str) -> dict[str, Any]:
    """The answer of `GET /info`."""
    return {
        **_counts(engine),
        **_abilities(engine, machine),
        **_machine(machine),
        **_registries(engine),
        "ID": engine.engine_id,
        "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", machine.backing_filesystem], ["Supports d_type", "true"]],
        "Plugins": _plugins(),
        "Debug": False,
        "NFd": machine.open_files,
        "NGoroutines": 1,
        "SystemTime": now,
        "LoggingDriver": engine.logging_driver,
        "NEventsListener": 0,
        "DockerRootDir": engine.data_dir,
        "HttpProxy": engine.http_proxy,
        "HttpsProxy": engine.https_proxy,
        "NoProxy": engine.no_proxy,
        "Labels": [],
        "ExperimentalBuild": False,
        "ServerVersion": __version__,
        "Runtimes": {name: {"path": path} for name, path in sorted(engine.runtimes.items())},
        "DefaultRuntime": engine.default_runtime,
        "Swarm": _NO_SWARM,
        # Containers outlive every daemon here: it is the only way this engine knows.
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "docker-init",
        "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": ""},
        "InitCommit": {"ID": ""},
        "SecurityOptions": _security(engine),
        "ProductLicense": "",
        "FirewallBackend": {"Driver": "nftables"},
        "CDISpecDirs": [],
        "DiscoveredDevices": [],
        "Warnings": list(engine.warnings) or None,
    }


def _plugins() -> dict[str, Any]:
    return {
        "Volume": ["local"],
        "Network": ["bridge", "host", "ipvlan", "macvlan", "null"],
        "Authorization": None,
        "Log": sorted(logdriver.OPTIONS),
    }


def _security(engine: EngineInfo) -> list[str]:
    users = ["name=userns"] if engine.remaps_users else []
    groups = ["name=cgroupns"] if engine.cgroup_version == 2 else []
    return ["name=seccomp,profile=builtin", *users, *groups]


def _counts(engine: EngineInfo) -> dict[str, Any]:
    return {
        "Containers": engine.containers,
        "ContainersRunning": engine.running,
        "ContainersPaused": engine.paused,
        "ContainersStopped": engine.stopped,
        "Images": engine.images,
    }


def _abilities(engine: EngineInfo, machine: Machine) -> dict[str, Any]:
    return {
        "MemoryLimit": True,
        "SwapLimit": True,
        "CpuCfsPeriod": True,
        "CpuCfsQuota": True,
        "CPUShares": True,
        "CPUSet": True,
        "PidsLimit": True,
        "OomKillDisable": engine.cgroup_version == 1,
        "IPv4Forwarding": machine.forwarding,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": str(engine.cgroup_version),
    }


def _machine(machine: Machine) -> dict[str, Any]:
    return {
        "Name": machine.hostname,
        "KernelVersion": machine.kernel,
        "OperatingSystem": machine.system,
        "OSVersion": machine.system_version,
        "OSType": "linux",
        "Architecture": machine.architecture,
        "NCPU": len(machine.host.cpus),
        "MemTotal": machine.memory,
    }


def _registries(engine: EngineInfo) -> dict[str, Any]:
    insecure = {name: _index(name, secure=False) for name in engine.insecure_registries}
    hub = _index("docker.io", secure=True) | {"Official": True, "Mirrors": list(engine.mirrors)}
    return {
        "IndexServerAddress": HUB,
        "RegistryConfig": {
            "InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8"],
            "IndexConfigs": {**insecure, "docker.io": hub},
            "Mirrors": list(engine.mirrors),
        },
    }


def _index(name: str, *, secure: bool) -> dict[str, Any]:
    return {"Name": name, "Mirrors": [], "Secure": secure, "Official": False}
