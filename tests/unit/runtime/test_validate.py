"""Bad configs: each is refused with the reason before anything is made."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from bulkhead.errors import InvalidArgument, LaunchFailed
from bulkhead.runtime import validate
from bulkhead.runtime.rootfs import OverlayRootfs
from tests.support.containers import docker_config

ROOT = OverlayRootfs(lower=("/l",), upper="/u", work="/w")
Config = dict[str, Any]


def good() -> Config:
    return docker_config("/x/y", ("true",))


def test_dockers_config_is_accepted() -> None:
    validate.container("abc", good(), ROOT)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ä", "a\0"])
def test_ids(name: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid id"):
        validate.container(name, good(), ROOT)


def edited(change: Callable[[Config], None]) -> Config:
    config = copy.deepcopy(good())
    change(config)
    return config


def process(**changes: Any) -> Callable[[Config], None]:
    return lambda config: config["process"].update(changes)


def linux(**changes: Any) -> Callable[[Config], None]:
    return lambda config: config["linux"].update(changes)


def top(**changes: Any) -> Callable[[Config], None]:
    return lambda config: config.update(changes)


def mount(**entry: Any) -> Callable[[Config], None]:
    return lambda config: config["mounts"].append(entry)


def line(inside: int) -> dict[str, int]:
    return {"containerID": inside, "hostID": 1000, "size": 1}


def without(kind: str) -> list[dict[str, str]]:
    return [entry for entry in good()["linux"]["namespaces"] if entry["type"] != kind]


ALL = without("")

BAD: dict[str, tuple[Callable[[Config], None], str]] = {
    "version": (top(ociVersion="2.0.0"), "ociVersion"),
    "no version": (top(ociVersion=None), "ociVersion"),
    "hook unknown": (top(hooks={"prestop": [{"path": "/x"}]}), "hooks.prestop is unknown"),
    "hook relative": (top(hooks={"prestart": [{"path": "x"}]}), "not absolute"),
    "hook timeout": (top(hooks={"poststop": [{"path": "/x", "timeout": 0}]}), "timeout"),
    "hook args": (top(hooks={"poststop": [{"path": "/x", "args": "a"}]}), "not a list"),
    "no process": (top(process=None), "process is missing"),
    "no args": (process(args=[]), "args is empty"),
    "args text": (process(args="true"), "not a list"),
    "args number": (process(args=["a", 1]), "not a list of texts"),
    "args nul": (process(args=["a\0b"]), "not a list of texts"),
    "env number": (process(env=[1]), "not a list of texts"),
    "cwd relative": (process(cwd="a"), "not an absolute path"),
    "cwd missing": (process(cwd=None), "not an absolute path"),
    "uid negative": (process(user={"uid": -1}), "out of range"),
    "uid wraps": (process(user={"uid": 1 << 32}), "out of range"),
    "uid unchanged": (process(user={"uid": 0xFFFFFFFF}), "out of range"),
    "uid text": (process(user={"uid": "0"}), "out of range"),
    "uid bool": (process(user={"uid": True}), "out of range"),
    "group": (process(user={"additionalGids": [-5]}), "out of range"),
    "umask": (process(user={"umask": 0o1000}), "out of range"),
    "capability set": (process(capabilities={"efective": []}), "no capability set"),
    "rlimit unknown": (process(rlimits=[{"type": "RLIMIT_FOO", "soft": 1, "hard": 1}]), "unknown"),
    "rlimit twice": (process(rlimits=[{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}] * 2), "twice"),
    "rlimit order": (process(rlimits=[{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]), "above"),
    "oom score": (process(oomScoreAdj=1001), "out of range"),
    "console": (process(consoleSize={"height": 1 << 16, "width": 1}), "out of range"),
    "apparmor": (process(apparmorProfile="x"), "AppArmor is not enabled"),
    "selinux": (process(selinuxLabel="x"), "SELinux is not enabled"),
    "scheduler": (process(scheduler={"policy": "SCHED_MINE"}), "policy 'SCHED_MINE' is unknown"),
    "scheduler nice": (process(scheduler={"policy": "SCHED_BATCH", "nice": 20}), "nice"),
    "scheduler priority": (process(scheduler={"policy": "SCHED_BATCH", "priority": 3}), "only be set with SCHED_FIFO"),
    "scheduler runtime": (process(scheduler={"policy": "SCHED_FIFO", "runtime": 3}), "only be set with SCHED_DEADLINE"),
    "scheduler flag": (process(scheduler={"policy": "SCHED_FIFO", "flags": ["X"]}), "flag 'X' is unknown"),
    "io class": (process(ioPriority={"class": "IDLE", "priority": 0}), "class 'IDLE' is unknown"),
    "io priority": (process(ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 8}), "not in 0..7"),
    "cpus": (process(execCPUAffinity={"initial": "3-1"}), "no list of numbers"),
    "memory mode": (linux(memoryPolicy={"mode": "MPOL_MINE"}), "mode 'MPOL_MINE' is unknown"),
    "personality": (linux(personality={"domain": "BSD"}), "personality"),
    "namespace unknown": (linux(namespaces=[{"type": "foo"}]), "unknown"),
    "namespace twice": (linux(namespaces=[{"type": "mount"}, {"type": "mount"}]), "twice"),
    "namespace path": (linux(namespaces=[{"type": "mount"}, {"type": "network", "path": "x"}]), "not absolute"),
    "no mount namespace": (linux(namespaces=without("mount")), "without a private MNT namespace"),
    "user namespace without maps": (linux(namespaces=[*ALL, {"type": "user"}]), "needs linux.uidMappings"),
    "user namespace without root": (
        linux(namespaces=[*ALL, {"type": "user"}], uidMappings=[line(1)], gidMappings=[line(0)]),
        "does not map id 0",
    ),
    "maps of a joined user namespace": (
        linux(namespaces=[*ALL, {"type": "user", "path": "/x"}], uidMappings=[line(0)]),
        "cannot both be given",
    ),
    "clocks": (linux(timeOffsets={"monotonic": {"secs": 1}}), "needs a time namespace"),
    "clock unknown": (
        linux(namespaces=[*ALL, {"type": "time"}], timeOffsets={"realtime": {"secs": 1}}),
        "has no offset",
    ),
    "uid map": (linux(uidMappings=[line(0)]), "need a user namespace"),
    "uid map of none": (linux(uidMappings=[{"containerID": 0}]), "no ids"),
    "rdt": (linux(intelRdt={"closID": "x"}), "/sys/fs/resctrl"),
    "mount label": (linux(mountLabel="x"), "SELinux is not enabled"),
    "hostname without uts": (linux(namespaces=without("uts")), "uts"),
    "hostname long": (top(hostname="x" * 65), "longer"),
    "net devices of the host": (linux(namespaces=without("network"), sysctl={}, netDevices={"e": {}}), "without a net"),
    "net device name": (linux(netDevices={"eth0": {"name": "a/b"}}), "invalid network device name"),
    "cgroup climbs": (linux(cgroupsPath="/a/../../b"), "not a path"),
    "propagation": (linux(rootfsPropagation="foo"), "unknown"),
    "masked relative": (linux(maskedPaths=["proc"]), "not an absolute path"),
    "sysctl of the host": (linux(sysctl={"kernel.core_pattern": "x"}), "not in a separate kernel namespace"),
    "sysctl hostname": (linux(sysctl={"kernel.hostname": "x"}), "conflicts"),
    "sysctl climbs": (linux(sysctl={"net/../kernel/core_pattern": "x"}), "not a name"),
    "sysctl climbs dotted": (linux(sysctl={"net....kernel": "x"}), "not a name"),
    "sysctl net on host": (linux(namespaces=without("network"), sysctl={"net.a": "x"}), "hosts network"),
    "sysctl ipc on host": (linux(namespaces=without("ipc"), sysctl={"kernel.sem": "x"}), "ipc namespace"),
    "sysctl number": (linux(sysctl={"net.a": 1}), "not text"),
    "device type": (linux(devices=[{"path": "/dev/x", "type": "z"}]), "unknown"),
    "device path": (linux(devices=[{"path": "x", "type": "c"}]), "not absolute"),
    "device number": (linux(devices=[{"path": "/dev/x", "type": "c", "major": 1 << 20}]), "out of range"),
    "mount target": (mount(type="tmpfs"), "not a path"),
    "mount root": (mount(type="tmpfs", destination="/a/.."), "root itself"),
    "mount type": (mount(destination="/x"), "no type"),
    "mount over proc": (mount(destination="/proc/", type="tmpfs"), "only a procfs"),
    "bind relative": (mount(destination="/x", source="y", options=["bind"]), "not an absolute path"),
    "bind data": (mount(destination="/x", source="/y", options=["bind", "size=1"]), "means nothing"),
    "mount copyup": (mount(destination="/x", type="ramfs", options=["tmpcopyup"]), "only a tmpfs"),
    "mount idmap": (mount(destination="/x", source="/y", options=["bind", "idmap"]), "need mappings"),
    "mount empty option": (mount(destination="/x", type="tmpfs", options=[""]), "not supported"),
    "annotation": (top(annotations={"a": 1}), "not text"),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD)
def test_bad_configs(change: Callable[[Config], None], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        validate.container("abc", edited(change), ROOT)


@pytest.mark.parametrize(
    "root",
    [
        OverlayRootfs(lower=(), upper="/u", work="/w"),
        OverlayRootfs(lower=("l",), upper="/u", work="/w"),
        OverlayRootfs(lower=("/l",), upper="u", work="/w"),
        OverlayRootfs(lower=("/l\\:x",), upper="/u", work="/w"),
        OverlayRootfs(lower=("/l",) * 501, upper="/u", work="/w"),
    ],
)
def test_bad_layers(root: OverlayRootfs) -> None:
    with pytest.raises(InvalidArgument):
        validate.container("abc", good(), root)


def test_a_bound_root_must_be_a_directory() -> None:
    for path in (None, "relative", "/nonexistent", "/etc/passwd"):
        with pytest.raises(InvalidArgument, match=r"root\.path"):
            validate.container("abc", {**good(), "root": {"path": path}}, None)


def test_an_exec_in_a_relative_directory_has_its_known_text() -> None:
    process = {**good()["process"], "cwd": "relative"}
    with pytest.raises(
        LaunchFailed, match=r"^OCI runtime exec failed: exec failed: Cwd must be an absolute path: unknown$"
    ):
        validate.further(process)
    validate.further({**process, "cwd": "/"})
