"""Layers that containers with and without a user namespace share: ids stay on disk as the container has them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bulkhead.errors import LaunchFailed
from tests.integration.runtime.test_namespaces import COUNT, FIRST, joining, kinds, mapped
from tests.support.containers import Box, Config, mounts_below, namespace

OWNED = """
    id -u; stat -c '%u:%g' /etc/passwd /etc
    echo '# more' >> /etc/group; echo new > /new; chown 5:6 /new; mkdir /d; rm /bin/mknod; ln -s x /link
    stat -c '%n %u:%g' /etc/group /new /d; test -e /bin/mknod || echo gone
"""


def owners(upper: str) -> dict[str, tuple[int, int]]:
    found = {path: path.lstat() for path in Path(upper).rglob("*")}
    return {str(path.relative_to(upper)): (info.st_uid, info.st_gid) for path, info in found.items()}


def edited(box: Box, *args: str, edit: Callable[[Config], None] = mapped) -> Config:
    config = box.config(*args)
    edit(config)
    return config


@pytest.mark.parametrize("volatile", [True, False])
def test_the_upper_directory_holds_the_ids_of_the_container(box: Box, volatile: bool) -> None:
    rootfs = box.rootfs(volatile=volatile)
    done = box.run_config(edited(box, "sh", "-c", OWNED), rootfs=rootfs)
    assert done.output.splitlines() == [
        *("0", "0:0", "0:0"),
        *("/etc/group 0:0", "/new 5:6", "/d 0:0", "gone"),
    ]
    found = owners(rootfs.upper)
    assert found.pop("new") == (5, 6)
    assert {"etc/group", "d", "bin/mknod", "link"} <= set(found)
    assert set(found.values()) == {(0, 0)}
    assert (Path(rootfs.upper) / "bin" / "mknod").is_char_device()


def test_a_layer_is_used_with_and_without_users_of_its_own(box: Box) -> None:
    """First by a mapped container, then by one without: the same files, the same owners."""
    rootfs = box.rootfs()
    first = box.run_config(edited(box, "sh", "-c", "echo 1 > /mine; chmod 600 /mine"), rootfs=rootfs)
    second = box.run_config(box.config("sh", "-c", "cat /mine; stat -c %u /mine; echo 2 > /other"), rootfs=rootfs)
    third = box.run_config(edited(box, "sh", "-c", "cat /mine /other; echo 3 > /other; cat /other"), rootfs=rootfs)
    assert [each.code for each in (first, second, third)] == [0, 0, 0], (first, second, third)
    assert second.output.split() == ["1", "0"]
    assert third.output.split() == ["1", "2", "3"]


def test_two_at_once_share_an_image(box: Box) -> None:
    task = box.create(edited(box, "sleep", "600"))
    task.start()
    assert Path(f"/proc/{task.pid}").stat().st_uid == FIRST
    done = box.run("sh", "-c", "stat -c %u /etc/passwd; cat /proc/self/uid_map")
    assert done.output.split() == ["0", "0", "0", "4294967295"]
    assert box.exec(task, edited(box), "stat", "-c", "%u", "/etc/passwd").output.split() == ["0"]
    box.kill(task)


def test_the_host_sees_the_files_of_a_mapped_process_as_the_mapped_users(box: Box) -> None:
    task = box.create(edited(box, "sh", "-c", "echo > /new; exec sleep 600"))
    before = mounts_below(box.base)
    task.start()
    assert Path(f"/proc/{task.pid}/root/etc/passwd").stat().st_uid == FIRST
    assert mounts_below(box.base) == before == []
    box.kill(task)


def test_standard_output_can_be_opened_by_its_name(box: Box) -> None:
    for user in ("0", "1000"):
        config = edited(box, "sh", "-c", "echo told > /dev/stdout; echo wrong > /dev/stderr")
        config["process"]["user"] = {"uid": int(user), "gid": 0}
        assert box.run_config(config).output.split() == ["told", "wrong"]


def test_standard_output_of_an_exec_can_be_opened_by_its_name(box: Box) -> None:
    config = edited(box, "sleep", "600")
    task = box.create(config)
    task.start()
    done = box.exec(task, config, "sh", "-c", "echo told > /dev/stdout", user={"uid": 1000, "gid": 0})
    assert done.output == "told\n"
    box.kill(task)


def test_a_joined_user_namespace_maps_the_layers_too(box: Box) -> None:
    task = box.create(edited(box, "sleep", "600"))
    task.start()

    def edit(config: Config) -> None:
        kinds(config).append({"type": "user", "path": f"/proc/{task.pid}/ns/user"})
        joining("network", f"/proc/{task.pid}/ns/net")(config)
        config["linux"]["sysctl"] = {}

    rootfs = box.rootfs()
    script = "readlink /proc/self/ns/user; stat -c %u /etc/passwd; echo > /new; echo told > /dev/stdout"
    done = box.run_config(edited(box, "sh", "-c", script, edit=edit), rootfs=rootfs)
    assert done.output.split() == [namespace(task.pid, "user"), "0", "told"]
    assert owners(rootfs.upper)["new"] == (0, 0)
    box.kill(task)


def test_a_volume_with_mapped_ids_is_root_s_own(box: Box, tmp_path: Path) -> None:
    """An idmapped bind keeps the container's ids on disk; a plain one is the host's, where root inside is nobody."""
    mine, hosts = tmp_path / "mine", tmp_path / "hosts"
    for place in (mine, hosts):
        place.mkdir()
        (place / "secret").write_text("hidden")
        (place / "secret").chmod(0o600)

    def edit(config: Config) -> None:
        mapped(config)
        for name, place, options in (("v", mine, ["rbind", "idmap"]), ("h", hosts, ["rbind"])):
            config["mounts"].append(
                {"destination": f"/{name}", "type": "bind", "source": str(place), "options": options}
            )

    script = "touch /v/new; cat /v/secret; echo; cat /h/secret; touch /h/new; stat -c %u /v /h"
    done = box.run_config(edited(box, "sh", "-c", script, edit=edit))
    assert done.output.splitlines() == [
        "hidden",
        "cat: can't open '/h/secret': Permission denied",
        "touch: /h/new: Permission denied",
        *("0", "65534"),
    ]
    assert (mine / "new").stat().st_uid == 0


def test_several_ranges_follow_each_other(box: Box) -> None:
    """What /etc/subuid grants in several lines."""

    def edit(config: Config) -> None:
        mapped(config)
        lines = [
            {"containerID": 0, "hostID": FIRST, "size": 100},
            {"containerID": 100, "hostID": 3 * FIRST, "size": COUNT},
        ]
        config["linux"] |= {"uidMappings": lines, "gidMappings": lines}

    rootfs = box.rootfs()
    script = "echo > /new; chown 99:100 /new; stat -c %u:%g /new; echo > /over; chown 65636 /over; stat -c %u /over"
    done = box.run_config(edited(box, "sh", "-c", script, edit=edit), rootfs=rootfs)
    assert done.output.splitlines() == ["99:100", "chown: /over: Invalid argument", "0"]
    assert owners(rootfs.upper)["new"] == (99, 100)


def test_many_layers(box: Box, tmp_path: Path) -> None:
    lower = []
    for number in range(100):
        layer = tmp_path / f"layer{number}"
        (layer / "layers").mkdir(parents=True)
        (layer / "layers" / str(number)).touch()
        lower.append(str(layer))
    rootfs = box.rootfs()
    several = type(rootfs)(lower=(*lower, *rootfs.lower), upper=rootfs.upper, work=rootfs.work)
    done = box.run_config(edited(box, "sh", "-c", "ls /layers | wc -l; touch /layers/5"), rootfs=several)
    assert done.output.split() == ["100"]
    assert [path.name for path in Path(rootfs.upper, "layers").iterdir()] == ["5"]


def test_what_the_host_made_read_only_stays_so(box: Box, tmp_path: Path) -> None:
    """Root inside, with every right over its own mounts, has none over the flags of the host's."""
    source, shown = tmp_path / "source", tmp_path / "shown"
    for place in (source, shown):
        place.mkdir()
    source.chmod(0o777)

    def edit(config: Config) -> None:
        mapped(config)
        for name, place, options in (("host", shown, ["rbind"]), ("asked", source, ["rbind", "ro"])):
            config["mounts"].append(
                {"destination": f"/{name}", "type": "bind", "source": str(place), "options": options}
            )
        for held in config["process"]["capabilities"].values():
            held.append("CAP_SYS_ADMIN")
        del config["linux"]["seccomp"]

    script = "for m in host asked; do mount -o remount,bind,rw /$m; touch /$m/new && echo wrote $m; done 2>&1"
    subprocess.run(["mount", "--bind", source, shown], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", shown], check=True)
        done = box.run_config(edited(box, "sh", "-c", script, edit=edit))
    finally:
        subprocess.run(["umount", shown], check=True)
    assert done.output.splitlines() == [
        "mount: permission denied (are you root?)",
        "touch: /host/new: Read-only file system",
        "wrote asked",  # the control: what the engine made for the container is the container's, as under runc
    ]


def test_a_source_that_is_not_there_is_named(box: Box, tmp_path: Path) -> None:
    def edit(config: Config) -> None:
        mapped(config)
        config["mounts"].append(
            {"destination": "/x", "type": "bind", "source": f"{tmp_path}/absent", "options": ["bind"]}
        )

    with pytest.raises(LaunchFailed, match=r"/absent.*no such file or directory"):
        box.run_config(edited(box, "true", edit=edit))
