"""Bad configs: each is refused with the reason before anything is made."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from bulkhead.errors import InvalidArgument
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


def without(kind: str) -> list[dict[str, str]]:
    return [entry for entry in good()["linux"]["namespaces"] if entry["type"] != kind]


BAD: dict[str, tuple[Callable[[Config], None], str]] = {
    "version": (top(ociVersion="2.0.0"), "ociVersion"),
    "no version": (top(ociVersion=None), "ociVersion"),
    "hooks": (top(hooks={"prestart": [{"path": "/x"}]}), "hooks is not supported"),
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
    "apparmor": (process(apparmorProfile="x"), "not supported"),
    "selinux": (process(selinuxLabel="x"), "not supported"),
    "scheduler": (process(scheduler={"policy": "SCHED_FIFO"}), "not supported"),
    "namespace unknown": (linux(namespaces=[{"type": "foo"}]), "unknown"),
    "namespace twice": (linux(namespaces=[{"type": "mount"}, {"type": "mount"}]), "twice"),
    "namespace path": (linux(namespaces=[{"type": "mount"}, {"type": "network", "path": "x"}]), "not absolute"),
    "no mount namespace": (linux(namespaces=without("mount")), "mount namespace"),
    "joined mount namespace": (linux(namespaces=[{"type": "mount", "path": "/proc/1/ns/mnt"}]), "mount namespace"),
    "user namespace": (linux(namespaces=[{"type": "mount"}, {"type": "user"}]), "not supported"),
    "time namespace": (linux(namespaces=[{"type": "mount"}, {"type": "time"}]), "not supported"),
    "uid map": (linux(uidMappings=[{"containerID": 0}]), "not supported"),
    "rdt": (linux(intelRdt={"closID": "x"}), "not supported"),
    "mount label": (linux(mountLabel="x"), "not supported"),
    "hostname without uts": (linux(namespaces=without("uts")), "uts"),
    "hostname long": (top(hostname="x" * 65), "longer"),
    "cgroup relative": (linux(cgroupsPath="a/b"), "not an absolute path"),
    "cgroup systemd": (linux(cgroupsPath="a.slice:b:c"), "not an absolute path"),
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
    "mount copyup": (mount(destination="/x", type="tmpfs", options=["tmpcopyup"]), "not supported"),
    "mount idmap": (mount(destination="/x", source="/y", options=["bind", "idmap"]), "not supported"),
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
