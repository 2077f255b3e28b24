"""What an image may not do by its files, its links and its words (cve-battery C04, C05, C08, C12, C14, C30, H04)."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkhead.ctl.engine_client import Answer
from bulkhead.ctl.seed.images import Tree
from tests.security.engine.conftest import Attack, Packed, entry

LNK, SYM, DIR, CHR, BLK, FIFO = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.DIRTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
)
UP = "../" * 20

# ---- C12: archives that climb out ----


def climbing(canary: Path) -> dict[str, Packed]:
    """Layers that would write, link, change or open something of `canary`."""
    there = str(canary).lstrip("/")
    leak = f"{canary}/file"
    return {
        "dots": Packed(entry(f"{UP}{there}/new", data=b"x")),
        "dots within": Packed(entry(f"a/{UP}{there}/new", data=b"x")),
        "absolute": Packed(entry(f"/{there}/new", data=b"x")),
        "pax path": Packed(entry("a", data=b"x", pax_headers={"path": f"{UP}{there}/new"})),
        "long name": Packed(entry("a/" * 60 + f"{UP * 4}{there}/new", data=b"x")),
        "through a link": Packed(entry("l", SYM, linkname=str(canary)), entry("l/new", data=b"x")),
        "through a climbing link": Packed(entry("l", SYM, linkname=f"{UP}{there}"), entry("l/new", data=b"x")),
        "through two links": Packed(
            entry("m", SYM, linkname="/"), entry("l", SYM, linkname=f"m/{there}"), entry("l/new", data=b"x")
        ),
        "directory turned link": Packed(
            entry("d", DIR), entry("d/a", data=b"x"), entry("d", SYM, linkname=str(canary)), entry("d/new", data=b"x")
        ),
        "directory entry on a link": Packed(
            entry("l", SYM, linkname=str(canary)), entry("l/", DIR, mode=0o777), entry("l/sub", DIR), entry("l/sub/x")
        ),
        "hard link out": Packed(entry("h", LNK, linkname=leak)),
        "hard link up": Packed(entry("h", LNK, linkname=f"{UP}{there}/file")),
        "hard link through a link": Packed(entry("l", SYM, linkname=str(canary)), entry("h", LNK, linkname="l/file")),
        "write through a hard link to a link": Packed(
            entry("l", SYM, linkname=leak), entry("h", LNK, linkname="l"), entry("h", data=b"overwritten")
        ),
        "whiteout through a link": Packed(entry("l", SYM, linkname=str(canary)), entry("l/.wh.file")),
        "opaque through a link": Packed(entry("l", SYM, linkname=str(canary)), entry("l/.wh..wh..opq")),
        "whiteout of the parent": Packed(entry("a/.wh...")),
        "device through a link": Packed(
            entry("l", SYM, linkname=str(canary)), entry("l/d", CHR, devmajor=1, devminor=1)
        ),
        "kernel whiteout": Packed(entry("w", CHR, devmajor=0, devminor=0)),
        "device number": Packed(entry("w", CHR, devmajor=1 << 20, devminor=1)),
        "overlay redirect": Packed(
            entry("r", DIR, pax_headers={"SCHILY.xattr.trusted.overlay.redirect": f"{UP}{there}"})
        ),
        "overlay metacopy": Packed(entry("r", pax_headers={"SCHILY.xattr.trusted.overlay.metacopy": "x"})),
        "user overlay": Packed(entry("r", DIR, pax_headers={"SCHILY.xattr.user.overlay.opaque": "y"})),
    }


# A later entry takes the place of the link itself.
TAKEN = {"write through a hard link to a link", "directory entry on a link"}


@pytest.mark.parametrize("road", [Attack.pulled, Attack.loaded], ids=["pull", "load"])
def test_no_archive_climbs_out(attack: Attack, canary: Path, road: Callable[..., Answer]) -> None:
    """Each is refused with a text, or harmless; the canary fixture looks at what it did."""
    taken = set()
    for name, layer in climbing(canary).items():
        answer = road(attack, layer)
        refused = answer.status >= 400 or b'"error' in answer.body
        if not refused:  # a layer is unpacked at the latest when a container is made
            made = attack.create("true")
            refused = made.status >= 400
            if not refused:
                attack.engine.api("DELETE", f"/containers/{made.json['Id']}?force=1")
        taken |= set() if refused else {name}
    assert taken == TAKEN


@pytest.mark.parametrize("road", [Attack.pulled, Attack.loaded], ids=["pull", "load"])
def test_an_honest_archive_is_taken_by_the_same_road(attack: Attack, road: Callable[..., Answer]) -> None:
    """The control: links that only point out are not followed, and are no reason to refuse."""
    layer = Packed(entry("l", SYM, linkname="/etc/passwd"), entry("d/h", data=b"text"), entry("g", LNK, linkname="d/h"))
    assert road(attack, layer).status == 200
    assert attack.run("cat", "/g").text == "text"


def test_device_nodes_of_an_image_stay_shut(attack: Attack) -> None:
    """C20 by an image: they may be there, as Docker has it, but the cgroup does not let anybody open them."""
    attack.pulled(Packed(entry("disk", BLK, devmajor=254, devminor=0), entry("mem", CHR, devmajor=1, devminor=1)))
    assert "Operation not permitted" in attack.run("head", "-c", "1", "/disk").text
    assert "Operation not permitted" in attack.run("head", "-c", "1", "/mem").text
    assert attack.run("head", "-c", "1", "/dev/zero").text == "\0"


# ---- C04, C05, C08: what the image has where the engine mounts ----


@pytest.mark.parametrize(
    "planted",
    [
        entry("proc", SYM, linkname="/tmp"),
        entry("proc", data=b"file"),
        entry("proc", SYM, linkname="/nowhere"),
        entry("sys", SYM, linkname="/tmp"),
        entry("sys", SYM, linkname="proc"),
    ],
    ids=["proc link", "proc file", "proc dangling", "sys link", "sys to proc"],
)
def test_proc_and_sys_are_the_kernels_or_nothing_starts(
    attack: Attack, canary: Path, planted: tuple[tarfile.TarInfo, bytes]
) -> None:
    assert attack.pulled(Packed(planted)).status == 200
    assert not attack.run("true").ran


def test_with_an_ordinary_proc_it_starts(attack: Attack) -> None:
    attack.pulled(Packed(entry("proc", DIR), entry("sys", DIR)))
    found = attack.run("sh", "-c", "head -c 1 /proc/1/comm; cat /proc/keys /proc/timer_list; echo x > /proc/keys")
    assert (found.status, found.text) == (0, "s")


@pytest.mark.parametrize("climb", ["", UP])
@pytest.mark.parametrize("names", [("",), ("/null", "/pts", "/ptmx", "/shm", "/mqueue", "/console", "/fd")])
def test_links_at_dev_change_nothing_outside(attack: Attack, canary: Path, names: tuple[str, ...], climb: str) -> None:
    """CVE-2026-41579, CVE-2025-31133: engines made links and nodes through the image's /dev on the host."""
    target = f"{climb}{canary}"
    attack.pulled(Packed(*(entry(f"dev{name}", SYM, linkname=target) for name in names)))
    found = attack.run("sh", "-c", "echo text > /dev/null && cat /proc/timer_list && echo fine")
    assert found.text == "fine\n" or not found.ran


@pytest.mark.parametrize(
    "target", ["{canary}/file", UP + "{canary}/file", "/proc/sys/kernel/core_pattern", "/nowhere/x"]
)
def test_links_at_the_engines_files_change_nothing_outside(attack: Attack, canary: Path, target: str) -> None:
    """They are bound on what the link names inside, or nothing starts; never on a file of the kernel."""
    told = target.format(canary=canary)
    attack.pulled(Packed(*(entry(f"etc/{name}", SYM, linkname=told) for name in ("hosts", "hostname", "resolv.conf"))))
    found = attack.run("sh", "-c", "echo planted > /etc/hosts; echo planted > /etc/hostname")
    assert found.ran != target.startswith("/proc/")
    assert "planted" not in Path("/etc/hosts").read_text()


def test_a_null_of_the_image_is_no_mask(attack: Attack, canary: Path) -> None:
    """CVE-2025-31133: masks were made by binding the container's /dev/null."""
    attack.pulled(Packed(entry("dev/null", SYM, linkname="/proc/sys/kernel/core_pattern")))
    script = "for each in keys timer_list interrupts; do probe write /proc/$each x; cat /proc/$each; done"
    assert attack.run("sh", "-c", script).text == "ok\n" * 3


# ---- C14, C30, H35: an image's words ----

STEERING = {
    "Labels": {
        "org.bulkhead.user": "0",
        "org.bulkhead.groups": "0,999",
        "io.containerd.runc.v2.log": "binary:///bin/sh?-c=touch%20{canary}/pwned",
        "com.docker.swarm.affinities": "x",
        "privileged": "true",
        "autoremove": "true",
        "restart": "always",
    },
    "Env": [
        "PATH=/bin",
        "LD_PRELOAD={canary}/evil.so",
        "LD_AUDIT={canary}/evil.so",
        "GLIBC_TUNABLES=x",
        "PYTHONPATH={canary}",
        "PYTHONSTARTUP={canary}/evil.py",
        "BASH_ENV={canary}/evil",
        "BULKHEAD_RUN={canary}",
        "DOCKER_HOST=unix://{canary}/socket",
        "NOTIFY_SOCKET={canary}/socket",
    ],
    "HostConfig": {"Privileged": True, "Binds": ["/:/host"], "CapAdd": ["ALL"], "SecurityOpt": ["seccomp=unconfined"]},
    "Privileged": True,
    "Runtime": "/bin/sh",
    "Annotations": {"org.bulkhead.user": "0", "run.oci.hooks.stdout": "{canary}/x"},
    "OnBuild": ["RUN touch {canary}/x"],
}


def test_an_images_words_do_not_steer_the_engine(attack: Attack, canary: Path) -> None:
    config = {
        key: [text.format(canary=canary) for text in value] if isinstance(value, list) else value
        for key, value in STEERING.items()
    }
    assert attack.pulled(User="1000:1000", **config).status == 200
    container = attack.start("sh", "-c", "id; env; cat /proc/self/status; ls -d /host; sleep 600")
    made = attack.engine.api("GET", f"/containers/{container}/json").json
    assert (made["HostConfig"]["Privileged"], made["HostConfig"]["AutoRemove"]) == (False, False)
    assert made["HostConfig"]["RestartPolicy"]["Name"] in ("", "no")
    assert not made["Mounts"]
    text = attack.logs(container, until="/host")
    assert "uid=1000 gid=1000 groups=1000\n" in text
    assert "CapEff:\t0000000000000000" in text and "Seccomp:\t2" in text
    assert f"LD_PRELOAD={canary}/evil.so\n" in text  # the workload does get its environment


def test_nobody_of_the_engine_sees_the_environment(attack: Attack) -> None:
    """Shim and services started before and after have none of a container's variables, and it has none of theirs."""
    attack.pulled(Env=["PATH=/bin", "LD_PRELOAD=/marker.so", "PYTHONPATH=/marker"])
    container = attack.start("sleep", "600")
    pid = attack.pid(container)
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    names = {line.partition("=")[0] for line in variables if line}
    assert names == {"PATH", "LD_PRELOAD", "PYTHONPATH", "HOSTNAME", "HOME"}
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for process in (parent, *filter(None, map(attack.engine.pid, ("api", "manager", "supervisor", "registry")))):
        assert b"marker" not in Path(f"/proc/{process}/environ").read_bytes()
        assert b"marker.so" not in Path(f"/proc/{process}/maps").read_bytes()


# ---- H04: user files that are no user files ----

UID = ("grep", "^Uid", "/proc/self/status")
PASSWD = b"bob:x:1000:1000::/home/bob:/bin/sh\n"


def sparse(name: str) -> Tree:
    """A file that begins like a passwd and goes on with one line without end."""
    return Packed(entry(name, data=PASSWD + b"x" * (24 << 20)))


@pytest.mark.parametrize(
    "planted",
    [
        {"kind": FIFO},
        {"kind": SYM, "linkname": "/dev/zero"},
        {"kind": SYM, "linkname": "/proc/self/fd/0"},
        {"kind": SYM, "linkname": "/proc/kmsg"},
        {"kind": SYM, "linkname": f"{UP}etc/shadow"},
        {"kind": DIR},
        {"kind": CHR, "devmajor": 1, "devminor": 5},
    ],
    ids=["fifo", "zero", "descriptor", "kmsg", "shadow", "directory", "device"],
)
def test_user_files_that_are_none_are_refused_at_once(attack: Attack, planted: dict[str, Any]) -> None:
    attack.pulled(Packed(*(entry(f"etc/{name}", **planted) for name in ("passwd", "group"))))
    assert not attack.run("true", User="bob:bob").ran
    numeric = attack.run(*UID, User="1000:1000")  # not `id`, which would read the FIFO itself
    assert "1000" in numeric.text or not numeric.ran


def test_an_endless_line_is_read_in_bounds(attack: Attack) -> None:
    attack.pulled(sparse("etc/passwd"), sparse("etc/group"))
    assert "1000" in attack.run(*UID, User="bob").text
    assert not attack.run("true", User="behind").ran


def test_links_in_the_image_lead_to_the_images_files(attack: Attack) -> None:
    """The control: a link is fine as long as what it names is an ordinary file, looked for inside."""
    attack.pulled(Packed(entry("etc/passwd", SYM, linkname=f"{UP}usr/users"), entry("usr/users", data=PASSWD)))
    assert attack.run("id", "-u", User="bob").text == "1000\n"
