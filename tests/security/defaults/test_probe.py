"""One probe under dockerd and under us, field by field: the confinement is Docker's, or the difference has a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from bulkhead.ctl.seed.images import Tree, image_of
from bulkhead.linux.cgroups import hierarchies
from tests.security.defaults.dockerd import Dockerd, private_dockerd
from tests.security.engine.conftest import Packed, entry
from tests.support.engine import Engine
from tests.support.images import push_image
from tests.support.probe import Report, parse, probe

WAYS: Mapping[str, tuple[str, ...]] = {
    "run": (),
    "user": ("--user", "1000:1000"),
    "drop": ("--cap-drop", "ALL"),
    "add": ("--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE"),
    "read-only": ("--read-only",),
    "privs": ("--security-opt", "no-new-privileges"),
    # All that --privileged lifts but the capabilities: dockerd cannot give them all where the machine lacks one.
    "unconfined": (
        *("--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined"),
        *("--cap-add", "SYS_ADMIN", "--cap-add", "MKNOD"),
    ),
}

MASKED_FILES = ("keys", "timer_list")
# Why a value may differ: (field, name or None for all of them) -> reason. What is not here must be equal.
REASONS: Mapping[tuple[str, str | None], str] = {
    ("namespace", None): "inode numbers; that they are not the host's is a test of its own",
    ("node", None): "runc lets every node be made and opens tun: we do neither (defaults.default_devices_rules)",
    ("rlimit", "nofile"): "inherited from the daemon, whose service file sets it",
    ("rlimit", "nproc"): "inherited from the daemon, whose service file sets it",
    ("rlimit", "core"): "inherited from the daemon, whose service file sets it",
    ("status", "SigIgn"): "ours ignores none (asserted below); dockerd's has what its daemon was started with",
    ("dev", "/dev/core"): "runc leaves the link out where the kernel has no /proc/kcore; ours then leads nowhere",
    ("path", "/sys/fs/cgroup"): "ours is read-only itself, dockerd's on v1 only what is mounted below",
    ("path", "/proc/interrupts"): "masked since Docker 28.3; the dockerd to compare with may be older",
    **dict.fromkeys(
        [
            ("path", f"/proc{way}/{name}")
            for way in ("", "/1/root/proc", "/thread-self/root/proc")
            for name in MASKED_FILES
        ],
        "masks of files are read-only mounts here: their mode cannot be changed either",
    ),
    ("call", "135"): "personality(-1): the kernel reads 32 bits, and 0xffffffff is allowed",
    **dict.fromkeys(
        [("call", str(number)) for number in (303, 310, 311, 329, 330, 331, *range(448, 470))],
        "allowed by the published profile, unknown or refused in that of an older dockerd",
    ),
    **dict.fromkeys(
        [("call", str(number)) for number in (425, 426, 427)],
        "io_uring: refused by the published profile, allowed by that of an older dockerd",
    ),
}
RESTRICTIONS = frozenset(("ro", "nosuid", "nodev", "noexec"))


@pytest.fixture(scope="module")
def dockerd() -> Iterator[Dockerd]:
    with private_dockerd() as found:
        found.docker("import", "-", "probe", input=_tree().tar())
        yield found


def _tree() -> Tree:
    users = (
        entry("etc/passwd", data=b"root:x:0:0::/root:/bin/sh\n"),
        entry("etc/group", data=b"root:x:0:\nwheel:x:10:root\n"),
    )
    return Packed(
        entry("probe", data=probe().read_bytes()),
        entry("idle"),
        *users,
        *(entry(name, b"5") for name in ("tmp", "proc", "sys")),
    )


@pytest.fixture
def ours(engine: Engine) -> str:
    name = push_image(engine.instance.registry, "probe/probe", image_of(_tree(), command=["/probe"]))
    engine.docker_ok("pull", "-q", name)
    return name


def exec_report(docker: Callable[..., str], image: str, *options: str) -> Report:
    container = docker("run", "-d", "--network", "none", image, "/probe", "lease", "/idle").strip()
    try:
        return parse(docker("exec", *options, container, "/probe", "report"))
    finally:
        docker("rm", "-f", container)


def explained(field: str, name: str) -> bool:
    return (field, None) in REASONS or (field, name) in REASONS


def differences(ours: Report, theirs: Report) -> dict[tuple[str, str], tuple[str | None, str | None]]:
    found = {}
    for field in {*ours, *theirs} - {"mount"}:
        mine, other = ours.get(field, {}), theirs.get(field, {})
        for name in {*mine, *other}:
            if mine.get(name) != other.get(name) and not explained(field, name):
                found[field, name] = (mine.get(name), other.get(name))
    return found


def looser_mounts(ours: Report, theirs: Report) -> dict[str, tuple[str | None, str | None]]:
    """Mounts of another type than dockerd's or without a restriction that dockerd's has; and those that only one has.

    Masks are compared as paths, and each cgroup hierarchy has the restrictions of all.
    """
    found: dict[str, tuple[str | None, str | None]] = {}
    mine, other = ours["mount"], theirs["mount"]
    for place in {*mine, *other}:
        if place.startswith("/sys/fs/cgroup/"):
            if place in mine and not restrictions(mine[place]) >= RESTRICTIONS:
                found[place] = (mine[place], None)
        elif place == "/proc/interrupts":
            continue
        elif place not in mine or place not in other or not as_strict(mine[place], other[place]):
            found[place] = (mine.get(place), other.get(place))
    return found


def restrictions(mount: str) -> frozenset[str]:
    return RESTRICTIONS & set(mount.split()[1].split(","))


def as_strict(ours: str, theirs: str) -> bool:
    return ours.split()[0] == theirs.split()[0] and restrictions(ours) >= restrictions(theirs)


def check(ours: Report, theirs: Report) -> None:
    assert len(ours["call"]) > 450
    assert differences(ours, theirs) == {}
    assert int(ours["status"]["SigIgn"], 16) == 0
    assert looser_mounts(ours, theirs) == {}


@pytest.mark.parametrize("way", WAYS)
def test_a_container_is_what_dockers_is(engine: Engine, ours: str, dockerd: Dockerd, way: str) -> None:
    words = ("run", "--rm", "--network", "none", *WAYS[way])
    check(
        parse(engine.docker_ok(*words, ours, "/probe", "report")),
        parse(dockerd.docker(*words, "probe", "/probe", "report")),
    )


@pytest.mark.parametrize("options", [(), ("--user", "1000:1000")])
def test_an_exec_is_what_dockers_is(engine: Engine, ours: str, dockerd: Dockerd, options: tuple[str, ...]) -> None:
    check(exec_report(engine.docker_ok, ours, *options), exec_report(dockerd.docker, "probe", *options))


def test_a_privileged_container_is_what_dockers_is(engine: Engine, ours: str, dockerd: Dockerd) -> None:
    words = ("run", "--rm", "--network", "none", "--privileged")
    try:
        theirs = dockerd.docker(*words, "probe", "/probe", "report")
    except AssertionError as refused:
        if "unable to apply caps" not in str(refused):
            raise
        pytest.skip("dockerd cannot: this machine lacks a capability (see the way `unconfined`)")
    check(parse(engine.docker_ok(*words, ours, "/probe", "report")), parse(theirs))


def test_the_comparison_sees_what_is_looser(engine: Engine, ours: str) -> None:
    """The control: a privileged container, one with a capability more, one that may write."""
    words = ("run", "--rm", "--network", "none")
    plain = parse(engine.docker_ok(*words, ours, "/probe", "report"))
    wide = parse(engine.docker_ok(*words, "--cap-add", "SYS_ADMIN", ours, "/probe", "report"))
    assert {("status", "CapEff"), ("call", "165")} <= set(differences(wide, plain))
    shut = parse(engine.docker_ok(*words, "--read-only", ours, "/probe", "report"))
    assert "/" in looser_mounts(plain, shut)
    assert "/" not in looser_mounts(shut, plain)


def test_every_namespace_is_its_own(engine: Engine, ours: str) -> None:
    found = parse(engine.docker_ok("run", "--rm", "--network", "none", ours, "/probe", "report"))["namespace"]
    shared = {name for name, value in found.items() if value == str(Path(f"/proc/self/ns/{name}").readlink())}
    # The cgroup namespace is the host's on cgroup v1, Docker's default there, and its own on v2.
    assert shared <= ({"user", "time"} if hierarchies().is_v2 else {"user", "time", "cgroup"})
    private = engine.docker_ok("run", "--rm", "--cgroupns", "private", ours, "/probe", "report")
    assert parse(private)["namespace"]["cgroup"] != str(Path("/proc/self/ns/cgroup").readlink())
