"""spec and features: what a config may look like here, and what this runtime can do with one."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from bulkhead import __version__
from bulkhead.errors import InvalidArgument
from bulkhead.linux import caps, mounts, namespaces
from bulkhead.runtime import defaults
from bulkhead.runtime.command import bundles
from bulkhead.runtime.command.arguments import Arguments
from bulkhead.runtime.command.context import Context
from bulkhead.runtime.command.usage import SPEC_VERSION

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_NEW = ("pid", "network", "ipc", "uts", "mount")


def write(_context: Context, arguments: Arguments) -> int:
    """config.json in the bundle; never over one that is there."""
    bundles.enter(arguments.text("bundle"))
    config = example(rootless=arguments.switch("rootless"))
    try:
        fd = os.open("config.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise InvalidArgument("File config.json exists. Remove it first") from None
    with open(fd, "w") as file:  # noqa: PTH123
        file.write(json.dumps(config, indent="\t"))
    return 0


def example(*, rootless: bool) -> dict[str, Any]:
    """A config that runs a shell, confined as the specification's own example is."""
    config: dict[str, Any] = {
        "ociVersion": SPEC_VERSION,
        "process": _process(),
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "bulkhead",
        "mounts": _mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in (*_NEW, *(["cgroup"] if _is_v2() else []))],
            "maskedPaths": list(defaults.DEFAULT_MASKED_PATHS),
            "readonlyPaths": list(defaults.DEFAULT_READONLY_PATHS),
        },
    }
    return _rootless(config) if rootless else config


def _is_v2() -> bool:
    from bulkhead.linux.cgroups import hierarchies

    return hierarchies().is_v2


def _process() -> dict[str, Any]:
    return {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }


def _mounts() -> list[dict[str, Any]]:
    hidden = ["nosuid", "noexec", "nodev"]
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    rows: list[tuple[str, str, str, list[str]]] = [
        ("/proc", "proc", "proc", []),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", pts),
        ("/dev/shm", "tmpfs", "shm", [*hidden, "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", hidden),
        ("/sys", "sysfs", "sysfs", [*hidden, "ro"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", [*hidden, "relatime", "ro"]),
    ]
    return [_mount(*row) for row in rows]


def _mount(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"destination": destination, "type": kind, "source": source}
    return entry | ({"options": list(options)} if options else {})


def _rootless(config: dict[str, Any]) -> dict[str, Any]:
    """One id in a user namespace, the host's network, no limits, and /sys as the host shows it."""
    linux = config["linux"]
    kinds = [entry for entry in linux["namespaces"] if entry["type"] not in ("network", "user")]
    linux["namespaces"] = [*kinds, {"type": "user"}]
    linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    del linux["resources"]
    kept = [entry for entry in config["mounts"] if entry["destination"] not in ("/sys", "/sys/fs/cgroup")]
    for entry in kept:
        entry["options"] = [text for text in entry.get("options", []) if not text.startswith(("gid=", "uid="))]
    shown = {"destination": "/sys", "type": "none", "source": "/sys"}
    config["mounts"] = [*kept, shown | {"options": ["rbind", "nosuid", "noexec", "nodev", "ro"]}]
    return config


# ---- features ----


def features(_context: Context, _arguments: Arguments) -> int:
    sys.stdout.write(json.dumps(described(), indent=4) + "\n")
    return 0


def described() -> dict[str, Any]:
    """What peers ask before they rely on it."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": _mount_options(),
        "linux": {
            "namespaces": sorted(namespaces.FLAGS),
            "capabilities": list(caps.ALL),
            "cgroup": {"v1": True, "v2": True, "systemd": _has_systemd(), "systemdUser": _has_systemd(), "rdma": True},
            "seccomp": _seccomp(),
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {"org.bulkhead.version": __version__, "org.opencontainers.runc.checkpoint.enabled": "false"},
    }


def _has_systemd() -> bool:
    """Whether it runs here (sd_booted(3)), and what speaks to it is installed."""
    return Path("/run/systemd/system").is_dir() and importlib.util.find_spec("jeepney") is not None


def _mount_options() -> list[str]:
    names = {*mounts.ATTRIBUTES, *mounts.RECURSIVE_ATTRIBUTES, *mounts.SUPERBLOCK_FLAGS, *mounts.PROPAGATION}
    return sorted({*names, "bind", "rbind", "defaults"})


def _seccomp() -> dict[str, Any]:
    actions = ("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "NOTIFY", "TRACE", "TRAP")
    flags = [f"SECCOMP_FILTER_FLAG_{name}" for name in ("LOG", "SPEC_ALLOW", "TSYNC")]
    return {
        "enabled": True,
        "actions": [f"SCMP_ACT_{name}" for name in actions],
        "operators": [f"SCMP_CMP_{name}" for name in ("EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE")],
        "archs": [f"SCMP_ARCH_{name}" for name in ("X32", "X86", "X86_64")],
        "knownFlags": flags,
        "supportedFlags": flags,
    }
