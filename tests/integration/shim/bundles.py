"""Bundles for tests: a busybox root file system, and configs like those the manager writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from bulkhead.runtime import defaults

_APPLETS = ("sh", "cat", "echo", "sleep", "true", "head", "stty", "dd", "yes", "seq", "kill", "readlink", "id", "ls")


def make_root(root: Path) -> Path:
    """/bin/busybox and some of its names."""
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "root"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in _APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    return root


def process(*args: str, terminal: bool = False, user: int = 0) -> dict[str, Any]:
    """An OCI process object with Docker's defaults."""
    capabilities = list(defaults.capabilities())
    return {
        "terminal": terminal,
        "user": {"uid": user, "gid": user},
        "args": list(args),
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        "noNewPrivileges": False,
    }


def config(root: Path, cgroup: str, wanted: dict[str, Any], *, host_pid: bool = False) -> dict[str, Any]:
    """A config.json with Docker's defaults and no network but its own empty namespace."""
    kinds = ("mount", "ipc", "uts", "network", "cgroup") + (() if host_pid else ("pid",))
    return {
        "ociVersion": "1.2.0",
        "process": wanted,
        "root": {"path": str(root), "readonly": False},
        "hostname": "test",
        "mounts": defaults.default_mounts(),
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in kinds],
            "maskedPaths": list(defaults.DEFAULT_MASKED_PATHS),
            "readonlyPaths": list(defaults.DEFAULT_READONLY_PATHS),
            "resources": {"devices": defaults.default_devices_rules()},
            "seccomp": defaults.default_seccomp(defaults.capabilities()),
        },
    }


def write(data_dir: Path, wanted: dict[str, Any]) -> None:
    """Write the bundle's config.json."""
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "config.json").write_text(json.dumps(wanted))
