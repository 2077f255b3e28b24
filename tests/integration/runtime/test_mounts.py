"""Binds, volumes, file systems: made inside only, with the options asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import Box, Config

Entry = dict[str, Any]


def with_mount(*entries: Entry) -> Callable[[Config], None]:
    def edit(config: Config) -> None:
        config["mounts"].extend(entries)

    return edit


def bind(source: Path, target: str, *options: str) -> Entry:
    return {"destination": target, "type": "bind", "source": str(source), "options": ["rbind", *options]}


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume" / "deep").mkdir(parents=True)
    (tmp_path / "volume" / "file").write_text("content\n")
    return tmp_path / "volume"


def test_a_volume_is_shared_both_ways(box: Box, volume: Path) -> None:
    done = box.run("sh", "-c", "cat /v/file; echo new > /v/written", edit=with_mount(bind(volume, "/v", "rprivate")))
    assert done.output == "content\n"
    assert (volume / "written").read_text() == "new\n"


@pytest.mark.parametrize(("subpath", "seen"), [("deep", "own"), ("deep/own", ""), ("way/out", "own")])
def test_what_is_below_a_source_cannot_lead_out_of_it(box: Box, volume: Path, subpath: str, seen: str) -> None:
    """Another container that has the whole volume can exchange a directory for a link at any moment."""
    (volume / "deep" / "own").write_text("")
    (volume / "way").symlink_to("/")
    (volume / "out").symlink_to("../../../../deep")

    def edit(config: Config) -> None:
        with_mount(bind(volume, "/v"))(config)
        config.setdefault("annotations", {})["org.bulkhead.subpath:/v"] = subpath

    assert box.run("ls", "/v", edit=edit).output.split() == [seen or "/v"]


def test_targets_are_made(box: Box, volume: Path) -> None:
    entries = [bind(volume, "/a/b/c"), bind(volume / "file", "/a/d/file")]
    assert box.run("sh", "-c", "cat /a/b/c/file /a/d/file", edit=with_mount(*entries)).output == "content\n" * 2


def test_read_only_means_it(box: Box, volume: Path) -> None:
    done = box.run(
        "sh", "-c", "echo x > /v/file; touch /v/deep/x; rm /v/file", edit=with_mount(bind(volume, "/v", "ro"))
    )
    assert done.output.count("Read-only file system") == 3


def test_flags_of_a_bind(box: Box, volume: Path) -> None:
    output = box.run(
        "grep",
        " /v ",
        "/proc/self/mountinfo",
        edit=with_mount(bind(volume, "/v", "nosuid", "nodev", "noexec", "noatime")),
    ).output
    assert {"rw", "nosuid", "nodev", "noexec", "noatime"} == set(output.split()[5].split(","))


SUBMOUNT = """
import os, subprocess, sys
from pathlib import Path
from tests.support.containers import Box
volume, base = Path(sys.argv[1]), Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", volume / "deep"], check=True)
(volume / "deep" / "file").write_text("below")
if len(sys.argv) > 3:
    subprocess.run(["mount", "-o", "bind,ro", volume, volume], check=True)
base.mkdir()
box = Box(base)
def edit(config):
    config["mounts"] += [
        {"destination": "/flat", "type": "bind", "source": str(volume), "options": ["bind"]},
        {"destination": "/tree", "type": "bind", "source": str(volume), "options": ["rbind", "rw"]},
        {"destination": "/locked", "type": "bind", "source": str(volume), "options": ["rbind", "rro"]},
    ]
print(box.run("sh", "-c", "ls /flat/deep /tree/deep; touch /locked/deep/x; touch /tree/y", edit=edit).output)
box.close()
"""


def in_own_mounts(script: str, *arguments: object) -> str:
    """Run Python in a private mount namespace of its own: tests change no mount of the machine."""
    command = ["unshare", "-m", sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_trees_and_recursive_read_only(box: Box, volume: Path) -> None:
    output = in_own_mounts(SUBMOUNT, volume, box.base / "inner")
    flat, tree = output.split("/tree/deep:")
    assert "file" not in flat and "file" in tree
    assert "/locked/deep/x: Read-only file system" in output


def test_rw_does_not_undo_a_read_only_source(box: Box, volume: Path) -> None:
    assert "/tree/y: Read-only file system" in in_own_mounts(SUBMOUNT, volume, box.base / "inner", "ro")


SHARED = """
import os, select, subprocess, sys
from pathlib import Path
from tests.support.containers import Box
base, propagation = Path(sys.argv[1]), sys.argv[2]
base.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", base], check=True)
subprocess.run(["mount", "--make-rshared", "/"], check=True)
volume = base / "volume"
volume.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", volume], check=True)
subprocess.run(["mount", "--make-shared", volume], check=True)
(volume / "d").mkdir(), (volume / "e").mkdir()
(base / "box").mkdir()
box = Box(base / "box")
# Copies of others' mounts vanish when those remove their directories.
mounts = lambda: set(Path("/proc/self/mountinfo").read_text().splitlines())
before = mounts()
config = box.config("sleep", "60")
config["linux"]["rootfsPropagation"] = {"rshared": "shared", "rslave": "rslave", "rprivate": "rprivate"}[propagation]
config["mounts"].append({"destination": "/v", "type": "bind", "source": str(volume), "options": ["rbind", propagation]})
task = box.create(config)
task.start()
assert mounts() <= before, "the host has new mounts"
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", volume / "d"], check=True)
print("inside" if " /v/d " in box.exec(task, config, "cat", "/proc/self/mountinfo").output else "not inside")
target = f"/proc/{task.pid}/root/v/e"
subprocess.run(["nsenter", "-t", str(task.pid), "-m", "/bin/mount", "-t", "tmpfs", "tmpfs", "/v/e"], check=True)
print("outside" if f" {volume}/e " in Path("/proc/self/mountinfo").read_text() else "not outside")
box.kill(task)
box.close()
assert f" {volume} " in Path("/proc/self/mountinfo").read_text(), "the host lost a mount"
"""


@pytest.mark.parametrize(
    ("propagation", "expected"),
    [
        ("rshared", ["inside", "outside"]),
        ("rslave", ["inside", "not outside"]),
        ("rprivate", ["not inside", "not outside"]),
    ],
)
def test_propagation(box: Box, propagation: str, expected: list[str]) -> None:
    """Even with everything shared on the host, what the container builds for itself stays inside."""
    assert in_own_mounts(SHARED, box.base / "inner", propagation).splitlines() == expected


def test_a_dangling_link_is_followed_inside(box: Box, volume: Path) -> None:
    """/etc/resolv.conf -> ../run/systemd/... is usual in images."""
    (box.image / "etc" / "resolv.conf").symlink_to("../run/systemd/resolve/stub.conf")
    entry = bind(volume / "file", "/etc/resolv.conf")
    assert (
        box.run("cat", "/etc/resolv.conf", "/run/systemd/resolve/stub.conf", edit=with_mount(entry)).output
        == "content\n" * 2
    )


def test_a_bound_dev_is_left_as_it_is(box: Box, volume: Path) -> None:
    """It may be the host's own: nodes would stay there, and those it has would get another owner."""
    asked = {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666, "uid": 0, "gid": 0}

    def edit(config: Config) -> None:
        config["mounts"] = [entry for entry in config["mounts"] if not entry["destination"].startswith("/dev")]
        config["mounts"].append(bind(volume, "/dev"))
        config["linux"]["devices"] = [asked]

    os.mknod(volume / "null", 0o20666, os.makedev(1, 3))
    os.chown(volume / "null", 0, 5)
    assert box.run("ls", "/dev", edit=edit).output.split() == ["deep", "file", "null"]
    assert sorted(path.name for path in volume.iterdir()) == ["deep", "file", "null"]
    assert (volume / "null").stat().st_gid == 5


def test_more_devices(box: Box) -> None:
    node = {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o640, "uid": 5, "gid": 6}

    def edit(config: Config) -> None:
        config["linux"]["devices"] = [node]

    assert box.run("stat", "-c", "%t:%T %a %u:%g", "/dev/net/tun", edit=edit).output == "a:c8 640 5:6\n"


def test_tmpfs_options(box: Box) -> None:
    entry = {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["noexec", "size=64k", "mode=1777"]}
    output = box.run(
        "sh",
        "-c",
        "stat -c %a /t; dd if=/dev/zero of=/t/x bs=1k count=100; grep ' /t ' /proc/mounts",
        edit=with_mount(entry),
    ).output
    assert "1777" in output and "No space left" in output and "noexec" in output


def test_a_read_only_dev_has_all_that_belongs_in_it(box: Box) -> None:
    def edit(config: Config) -> None:
        next(entry for entry in config["mounts"] if entry["destination"] == "/dev")["options"].append("ro")

    script = "grep -c '^tmpfs /dev tmpfs ro,' /proc/mounts; ls -d /dev/null /dev/pts /dev/fd; touch /dev/x"
    said = box.run("sh", "-c", script, edit=edit)
    assert said.output.splitlines()[:4] == ["1", "/dev/fd", "/dev/null", "/dev/pts"]
    assert said.code == 1
