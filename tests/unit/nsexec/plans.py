"""Sound plans to break: one with every section, one with the fewest."""

from __future__ import annotations

from bulkhead.nsexec.plan import (
    Capabilities,
    Device,
    Flag,
    Hook,
    HookKind,
    Mount,
    MountFlag,
    MountKind,
    Plan,
    Root,
    RootKind,
    Tuning,
    TuningFlag,
)

FULL = Plan(
    flags=Flag.PARK | Flag.WAIT_CGROUP | Flag.KEYRING | Flag.SETUP_DEV,
    argv=("/bin/sh", "-c", "echo ä"),
    cwd="/work",
    env=("PATH=/bin", "EMPTY="),
    root=Root(kind=RootKind.OVERLAY, path="/u", upper="/u", work="/w", lower=("/l2", "/l1"), volatile=True),
    joins=(0x40000000,),
    mounts=(
        Mount(kind=MountKind.FILESYSTEM, type="tmpfs", target="/dev", options=(("mode", "755"), ("flag", ""))),
        Mount(kind=MountKind.BIND, source="/s", target="/t", flags=MountFlag.RECURSIVE, set=1, tree_set=1),
        Mount(kind=MountKind.SYMLINK, source="cpu,cpuacct", target="/sys/fs/cgroup/cpu"),
    ),
    devices=(Device(path="/dev/null", mode=0o20666, major=1, minor=3),),
    masked=("/proc/kcore",),
    readonly=("/proc/sys", "/proc/bus"),
    sysctl=(("net/ipv4/ip_forward", "1"),),
    hostname="h",
    domainname="d",
    user="bob:wheel",
    groups=(1, 2, 3),
    group_names=("staff",),
    rlimits=((7, 1024, 4096),),
    capabilities=Capabilities(bounding=5, ambient=1),
    hidden=("/proc",),
    hooks=(Hook(kind=HookKind.START_CONTAINER, path="/h", argv=("h", "x"), env=("A=1",), timeout=3),),
    state=("{1", "{2", "}"),
    tuning=Tuning(present=TuningFlag.SCHEDULER, nice=-3),
    affinity=(3, 0),
    nodes=(1, 0),
    profile="exec=x",
    filter=b"\x06\0\0\0\0\0\xff\x7f" * 3,
)

LEAST = Plan(flags=Flag.EXEC, argv=("x",), cwd="/")
