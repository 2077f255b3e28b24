"""Facts of the host, read from /proc, /sys and uname(2)."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
from pathlib import Path

from bulkhead.api.ports.system import Host, Machine
from bulkhead.api.schema.validation import parse_set

_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def read_machine(data: Path) -> Machine:
    """The host now; `data` is the directory whose file system is named."""
    release = _release()
    return Machine(
        host=_host(),
        hostname=socket.gethostname(),
        kernel=os.uname().release,
        system=release.get("PRETTY_NAME", "Linux"),
        system_version=release.get("VERSION_ID", ""),
        architecture=os.uname().machine,
        go_architecture=_GO_ARCHITECTURES.get(os.uname().machine, os.uname().machine),
        language=f"python{platform.python_version()}",
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        forwarding=_text(Path("/proc/sys/net/ipv4/ip_forward")) == "1",
        open_files=len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        backing_filesystem=_filesystem(data),
    )


def _host() -> Host:
    cpus = _text(Path("/sys/devices/system/cpu/online")) or f"0-{(os.cpu_count() or 1) - 1}"
    nodes = _text(Path("/sys/devices/system/node/online")) or "0"
    return Host(cpus=parse_set(cpus), cpus_text=cpus, memory_nodes=parse_set(nodes), memory_nodes_text=nodes)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _filesystem(path: Path) -> str:
    """The type of the file system that `path` is on: the longest mount point above it."""
    best, kind = "", ""
    for line in _text(Path("/proc/self/mounts")).splitlines():
        _, mount_point, type_, *_ = line.split(" ")
        if path.is_relative_to(mount_point) and len(mount_point) >= len(best):
            best, kind = mount_point, type_
    return kind


def cgroup_version() -> int:
    """2 where the unified hierarchy holds the controllers, else 1."""
    return 2 if _text(Path("/sys/fs/cgroup/cgroup.controllers")) else 1


async def path_exists(path: str) -> bool:
    """Whether something is at `path` on the host; it may be a dead network mount, so not in the loop."""
    return await asyncio.to_thread(os.path.exists, path)
