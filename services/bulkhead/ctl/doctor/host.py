"""The machine: does its kernel have what containers need? Where that can be tried without a trace, it is tried.

Bridges, cables and firewall are tried in a network namespace of their own, an overlay as a mount attached nowhere.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bulkhead.ctl.doctor.findings import Area, Finding, Level
from bulkhead.linux import cgroup_mounts, netlink, nftables, overlay, resolve, seccomp
from bulkhead.linux.netns import in_netns, new_netns
from bulkhead.model.instance import Instance

# clone3 into a cgroup, openat2, pidfd_getfd, the mount API, close_range with CLOEXEC.
OLDEST_KERNEL = (5, 11)
# From here the end of a process can be asked of its pidfd after somebody else has reaped it.
EXIT_INFO_KERNEL = (6, 15)
_CONTROLLERS = {
    "memory": "memory limits and out-of-memory reports",
    "cpu": "CPU limits",
    "cpuset": "pinning to CPUs",
    "pids": "limits of processes",
    "blkio": "limits of disk bandwidth",
    "devices": "the list of devices a container may open",
    "freezer": "docker pause",
}
# In cgroup v2 these are no controllers: the kernel has them always (BPF, cgroup.freeze), or by another name.
_BUILT_IN_V2 = frozenset(("devices", "freezer"))
_V2_NAMES = {"blkio": "io"}
_GIB = 1 << 30
_LOW_BYTES, _NO_BYTES = 5 * _GIB, _GIB // 4
_LOW_INODES = 0.05
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_EARLIEST = 1_735_689_600  # 2025-01-01, before this was written


def examine(instance: Instance) -> list[Finding]:
    """Everything about the machine. Needs root."""
    return [found for check in _CHECKS for found in check(instance)]


def _told(level: Level, subject: str, text: str, advice: str = "") -> Finding:
    return Finding(area=Area.HOST, level=level, subject=subject, text=text, advice=advice)


def _kernel(_: Instance) -> Iterator[Finding]:
    release = os.uname().release
    version = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    if version < OLDEST_KERNEL:
        wanted = ".".join(map(str, OLDEST_KERNEL))
        yield _told(
            Level.FAIL,
            "kernel",
            f"Linux {release}: clone3, openat2 and the mount API are missing or half",
            f"boot Linux {wanted} or newer",
        )
    elif version < EXIT_INFO_KERNEL:
        text = f"Linux {release}: if shim and supervisor of a container die together, its exit code is lost"
        yield _told(Level.WARN, "kernel", text, "Linux 6.15 or newer keeps it")
    else:
        yield _told(Level.OK, "kernel", f"Linux {release}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """Something tried: what it is good for, and what to do when it fails."""

    subject: str
    need: str
    advice: str
    run: Callable[[Instance], str]
    level: Level = Level.FAIL

    def __call__(self, instance: Instance, /) -> Iterator[Finding]:
        try:
            yield _told(Level.OK, self.subject, self.run(instance) or "works")
        except OSError as error:
            reason = error.strerror or str(error)
            yield _told(self.level, self.subject, f"{reason}: without it {self.need}", self.advice)


def _pidfd(_: Instance) -> str:
    os.close(os.pidfd_open(os.getpid()))
    return ""


def _openat2(_: Instance) -> str:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(resolve.open_in_root(root, "proc", os.O_PATH | os.O_CLOEXEC))
    finally:
        os.close(root)
    return ""


def _seccomp(_: Instance) -> str:
    actions = Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    if not seccomp.supported():
        raise OSError(f"filters are not known for {os.uname().machine}")
    return f"actions {' '.join(actions)}"


def _user_namespaces(_: Instance) -> str:
    Path("/proc/self/ns/user").stat()
    most = int(Path("/proc/sys/user/max_user_namespaces").read_text())
    if most < 1:
        raise OSError("user.max_user_namespaces is 0")
    return f"up to {most}"


def _overlay(instance: Instance) -> str:
    """An overlay whose upper directory is where containers' will be."""
    place = next(path for path in (instance.data, *instance.data.parents) if path.is_dir())
    with tempfile.TemporaryDirectory(prefix=".bulkhead-doctor-", dir=place) as scratch:
        for name in ("lower", "upper", "work"):
            Path(scratch, name).mkdir()
        os.close(overlay.detached([f"{scratch}/lower"], upper=f"{scratch}/upper", work=f"{scratch}/work"))
    return f"works on {place}"


def _cables(_: Instance) -> str:
    """A bridge and a veth pair in a network that nobody else sees; the kernel takes it away with its last user."""
    scratch, beyond = new_netns(), new_netns()

    def make() -> None:
        with netlink.Netlink() as kernel:
            kernel.request(netlink.bridge("doctor0", "02:42:00:00:00:01"))
            (bridge,) = (link.index for link in kernel.links() if link.name == "doctor0")
            kernel.request(
                netlink.veth(
                    host="doctor1", peer="eth0", peer_mac="02:42:00:00:00:02", netns=beyond, master=bridge, mtu=1500
                )
            )

    try:
        in_netns(scratch, make)
    finally:
        os.close(scratch)
        os.close(beyond)
    return "a bridge and a veth pair were made"


_NFT_PROBE = """add table inet doctor
add chain inet doctor nat { type nat hook prerouting priority -100; policy accept; }
add map inet doctor ports { type inet_proto . inet_service : ipv4_addr . inet_service; }
add rule inet doctor nat dnat ip to meta l4proto . th dport map @ports
add table bridge doctor
add chain bridge doctor ingress { type filter hook prerouting priority -300; policy accept; }"""


def _firewall(_: Instance) -> str:
    scratch = new_netns()

    def make() -> None:
        rules = nftables.Nftables()
        try:
            rules.run(_NFT_PROBE)
        finally:
            rules.close()

    try:
        in_netns(scratch, make)
    finally:
        os.close(scratch)
    return "a NAT map and a bridge filter were made"


def _cgroups(_: Instance) -> Iterator[Finding]:
    mounted = cgroup_mounts.hierarchies()
    if mounted.is_v2:
        there = set(Path(mounted.roots()[0], "cgroup.controllers").read_text().split())
        missing = [name for name in _CONTROLLERS if name not in _BUILT_IN_V2 and _V2_NAMES.get(name, name) not in there]
    else:
        missing = [name for name in _CONTROLLERS if name not in _keys_v1()]
    version = "v2" if mounted.is_v2 else "v1"
    if not mounted.roots():
        yield _told(Level.FAIL, "cgroups", "none is mounted", "mount -t cgroup2 none /sys/fs/cgroup")
    for name in missing:
        advice = "boot with the controller enabled (cgroup_enable=, systemd's Delegate=), or mount its hierarchy"
        yield _told(Level.WARN, f"cgroup {name}", f"{version} without it: there is no {_CONTROLLERS[name]}", advice)
    if mounted.roots() and not missing:
        yield _told(Level.OK, "cgroups", f"{version} with {', '.join(_CONTROLLERS)}")


def _keys_v1() -> set[str]:
    """The controllers that are mounted, of /proc/self/mountinfo's super options."""
    found: set[str] = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        kind, _, options = line.partition(" - ")[2].split(" ", 2)
        if kind == "cgroup":
            found |= set(options.split(","))
    return found


def _limits(_: Instance) -> Iterator[Finding]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    yield _at_least(
        "open files",
        hard,
        65_536,
        "a manager of some thousand containers runs out",
        "LimitNOFILE=1048576, or ulimit -Hn",
    )
    for subject, path, least, need in _KERNEL_LIMITS:
        try:
            value = int(Path("/proc/sys", path).read_text())
        except (OSError, ValueError):
            continue
        yield _at_least(subject, value, least, need, f"sysctl -w {path.replace('/', '.')}={least * 4}")


_KERNEL_LIMITS = (
    ("process ids", "kernel/pid_max", 32_768, "few containers fit"),
    ("threads", "kernel/threads-max", 8_192, "few containers fit"),
    ("inotify instances", "fs/inotify/max_user_instances", 128, "programs that watch files fail in containers"),
    ("inotify watches", "fs/inotify/max_user_watches", 8_192, "programs that watch files fail in containers"),
    ("network namespaces", "user/max_net_namespaces", 128, "few containers fit"),
    ("mount namespaces", "user/max_mnt_namespaces", 128, "few containers fit"),
    ("open files of the machine", "fs/file-max", 65_536, "few containers fit"),
)


def _at_least(subject: str, value: int, least: int, need: str, advice: str) -> Finding:
    if value == resource.RLIM_INFINITY or value >= least:
        return _told(Level.OK, subject, "no limit" if value == resource.RLIM_INFINITY else f"{value}")
    return _told(Level.WARN, subject, f"{value}, less than {least}: {need}", advice)


def _disk(instance: Instance) -> Iterator[Finding]:
    for path in (instance.data, instance.run):
        place = next(each for each in (path, *path.parents) if each.is_dir())
        found = os.statvfs(place)
        free = found.f_bavail * found.f_frsize
        text = f"{free / _GIB:.1f} GiB free"
        advice = "docker system prune, or make room; docker system df tells what takes it"
        low = _LOW_BYTES if path == instance.data else _NO_BYTES
        if free < _NO_BYTES // (1 if path == instance.data else 16):
            yield _told(Level.FAIL, f"disk {path}", f"{text}: nothing can be recorded soon", advice)
        elif free < low:
            yield _told(Level.WARN, f"disk {path}", f"{text}: pulls will fail soon", advice)
        elif found.f_files and found.f_favail < found.f_files * _LOW_INODES:
            yield _told(Level.WARN, f"disk {path}", f"{found.f_favail} inodes free of {found.f_files}", advice)
        else:
            yield _told(Level.OK, f"disk {path}", text)


def _clock(_: Instance) -> Iterator[Finding]:
    if time.time() < _EARLIEST:
        yield _told(
            Level.FAIL,
            "clock",
            f"it says {time.ctime()}: certificates and tokens look unborn",
            "set it: date -s, or run an NTP client",
        )
        return
    # struct timex is less than this everywhere; modes 0 only asks.
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    if state == _TIME_ERROR:
        text = "nobody keeps it right; times in logs and the life of tokens depend on it"
        yield _told(Level.WARN, "clock", text, "run an NTP client (chrony, systemd-timesyncd)")
    else:
        yield _told(Level.OK, "clock", "synchronised")


def _tools(_: Instance) -> Iterator[Finding]:
    for name, need in _TOOLS.items():
        path = shutil.which(name)
        yield _told(Level.OK, f"tool {name}", path or f"not installed, which only matters for {need}")


_TOOLS = {
    "docker": "those who want Docker's command line",
    "runc": "docker run --runtime runc",
    "crun": "docker run --runtime crun",
}

_CHECKS: tuple[Callable[[Instance], Iterator[Finding]], ...] = (
    _kernel,
    _Trial(subject="pidfd", need="processes cannot be told apart", advice="boot Linux 5.11 or newer", run=_pidfd),
    _Trial(
        subject="openat2",
        need="paths in containers cannot be followed safely",
        advice="boot Linux 5.11 or newer; in a container, allow the call in its seccomp profile",
        run=_openat2,
    ),
    _Trial(
        subject="seccomp",
        need="containers may make every system call",
        advice="a kernel with CONFIG_SECCOMP_FILTER",
        run=_seccomp,
    ),
    _Trial(
        subject="user namespaces",
        need="there is no user namespace for a container (--userns)",
        advice="sysctl -w user.max_user_namespaces=15000",
        run=_user_namespaces,
        level=Level.WARN,
    ),
    _Trial(
        subject="overlay",
        need="no container can start",
        advice="modprobe overlay; the data directory must be on ext4, xfs, btrfs or tmpfs, not on an overlay or NFS",
        run=_overlay,
    ),
    _Trial(
        subject="bridge and veth",
        need="containers have no network but none and host",
        advice="modprobe -a bridge veth",
        run=_cables,
    ),
    _Trial(
        subject="nftables",
        need="no port is published and networks are not kept apart",
        advice="install libnftables1; modprobe -a nf_tables nft_chain_nat",
        run=_firewall,
    ),
    _cgroups,
    _limits,
    _disk,
    _clock,
    _tools,
)
