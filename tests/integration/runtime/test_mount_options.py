"""Mount options beyond Docker's: idmapped binds, copy-up, recursive flags, remounts, propagation."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bulkhead.errors import LaunchFailed
from tests.integration.runtime.test_namespaces import FIRST, mapped, rooted
from tests.support.containers import Box, Config

Entry = dict[str, Any]


def mounting(*entries: Entry) -> Any:
    def edit(config: Config) -> None:
        config["mounts"].extend(entries)

    return edit


def bind(source: Path, target: str, *options: str, **more: Any) -> Entry:
    return {"destination": target, "type": "bind", "source": str(source), "options": ["bind", *options], **more}


def flags(box: Box, target: str, *entries: Entry) -> list[str]:
    """Options of the mount at `target`, as mountinfo shows them inside."""
    output = box.run("cat", "/proc/self/mountinfo", edit=mounting(*entries)).output
    [line] = [line.split() for line in output.splitlines() if line.split()[4] == target]
    return line[5].split(",")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "file").write_text("content\n")
    return tmp_path / "volume"


def line(inside: int, outside: int, size: int = 1000) -> list[dict[str, int]]:
    return [{"containerID": inside, "hostID": outside, "size": size}]


def test_an_idmapped_bind_shows_other_owners(box: Box, volume: Path) -> None:
    """The mapping's own user namespace is there for a moment only; the container has none."""
    os.chown(volume / "file", 5, 6)
    entry = bind(volume, "/v", uidMappings=line(0, 2000), gidMappings=line(0, 3000))
    done = box.run("sh", "-c", "stat -c %u:%g /v/file; touch /v/made", edit=mounting(entry))
    assert done.output.splitlines()[0] == "2005:3006"
    info = (volume / "file").stat()
    assert (info.st_uid, info.st_gid) == (5, 6)


def test_idmap_takes_the_mappings_of_the_container(box: Box, volume: Path) -> None:
    """Files of the host's root are root's inside, and what root makes inside is the host's root's."""

    def edit(config: Config) -> None:
        mapped(config)
        config["mounts"].append(bind(volume, "/v", "idmap"))

    done = box.run_config(rooted(box, "sh", "-c", "stat -c %u:%g /v/file; touch /v/made", edit), rootfs=None)
    assert done.output == "0:0\n"
    assert (volume / "made").stat().st_uid == 0


@pytest.mark.parametrize(("option", "owner"), [("idmap", str(0)), ("ridmap", str(FIRST))])
def test_only_ridmap_maps_what_is_mounted_below(box: Box, volume: Path, option: str, owner: str) -> None:
    below = volume / "below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", below], check=True)
    try:
        entry = bind(volume, "/v", "rbind", option, uidMappings=line(0, FIRST), gidMappings=line(0, FIRST))
        assert box.run("stat", "-c", "%u", "/v/below", edit=mounting(entry)).output.strip() == owner
    finally:
        subprocess.run(["umount", below], check=True)


def test_copy_up(box: Box) -> None:
    """A tmpfs that begins with what the image has there."""
    place = box.image / "data"
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "file").write_text("x" * 3_000_000)
    (place / "deep" / "file").chmod(0o4751)
    (place / "link").symlink_to("deep/file")
    os.mkfifo(place / "fifo")
    os.chown(place / "deep", 7, 8)
    os.utime(place / "deep" / "file", (1_000_000_000, 1_000_000_001))
    place.chmod(0o1733)
    entry = {"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nosuid", "ro"]}
    script = """
        cd /data; stat -c '%a %s %Y' deep/file; stat -c %u:%g deep; readlink link; stat -c %F fifo; stat -c %a .
        grep ' /data ' /proc/self/mountinfo | cut -d' ' -f6; grep ' /data ' /proc/self/mountinfo | grep -o 'tmpfs'
    """
    lines = box.run("sh", "-c", script, edit=mounting(entry)).output.splitlines()
    assert lines[:5] == ["4751 3000000 1000000001", "7:8", "deep/file", "fifo", "1733"]
    assert lines[5] == "ro,nosuid,relatime"
    assert lines[6] == "tmpfs"
    assert (place / "deep" / "file").exists()


def test_recursive_flags_reach_what_is_mounted_below(box: Box, volume: Path) -> None:
    below = volume / "below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", below], check=True)
    try:
        entry = bind(volume, "/v", "rbind", "rro", "rnosuid", "rnoatime")
        assert flags(box, "/v/below", entry) == ["ro", "nosuid", "noatime"]
        assert flags(box, "/v/below", bind(volume, "/v", "rbind", "ro")) == ["rw", "relatime"]
    finally:
        subprocess.run(["umount", below], check=True)


def test_a_remount_changes_what_it_names(box: Box, volume: Path) -> None:
    first = bind(volume, "/v", "nodev")
    again = {"destination": "/v", "type": "none", "source": "none", "options": ["remount", "bind", "ro"]}
    assert flags(box, "/v", first, again) == ["ro", "nodev", "relatime"]


def test_a_remount_changes_the_file_system(box: Box) -> None:
    first = {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]}
    again = {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "size=128k"]}
    done = box.run("grep", " /t ", "/proc/self/mountinfo", edit=mounting(first, again))
    assert "size=128k" in done.output


def test_a_file_system_with_recursive_propagation(box: Box) -> None:
    entry = {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["rshared"]}
    assert "shared:" in box.run("grep", " /t ", "/proc/self/mountinfo", edit=mounting(entry)).output


def test_an_idmapped_bind_that_the_file_system_refuses(box: Box) -> None:
    """A clear refusal: files would belong to the wrong ones."""
    entry = bind(Path("/proc/sys"), "/v", uidMappings=line(0, 1), gidMappings=line(0, 1))
    with pytest.raises(LaunchFailed, match=r"/proc/sys \(idmap\)"):
        box.run("true", edit=mounting(entry))
