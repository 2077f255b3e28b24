"""Volumes by the docker CLI and docker-py, beside dockerd."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import DockerClient
from docker.errors import APIError, NotFound

from tests.compat.conftest import Target


@pytest.fixture(params=["real", "dockerd"])
def target(target: Target) -> Iterator[Target]:
    """The engines that have volumes; those that a test made are removed."""
    before = set(target.ok("volume", "ls", "-q").split())
    yield target
    left = target.docker("ps", "-aq").stdout.split()
    if left:
        target.docker("rm", "-f", "-v", *left)
    for name in set(target.ok("volume", "ls", "-q").split()) - before:
        target.docker("volume", "rm", "-f", name)


def sh(target: Target, script: str, *options: str) -> str:
    return target.ok("run", "--rm", *options, "busybox", "sh", "-c", script)


def test_an_anonymous_volume_is_at_one_place_however_that_is_written(target: Target) -> None:
    places = ["-v", "/data/", "-v", "/data", "-v", "/data/.", "-v", "named:/other", "-v", "/other/"]
    target.ok("create", "--name", "box", *places, "busybox", "true")
    shown = target.ok("inspect", "-f", "{{range .Mounts}}{{.Destination}} {{end}}", "box")
    assert sorted(shown.split()) == ["/data", "/other"]
    target.ok("rm", "-v", "box")


def test_a_named_volume_keeps_its_files(target: Target) -> None:
    assert target.ok("volume", "create", "--label", "a=b", "data") == "data"
    sh(target, "echo kept > /d/f", "-v", "data:/d")
    assert sh(target, "cat /d/f", "-v", "data:/d") == "kept"
    (shown,) = json.loads(target.ok("volume", "inspect", "data"))
    assert (shown["Driver"], shown["Scope"], shown["Labels"]) == ("local", "local", {"a": "b"})
    assert not shown["Options"]
    assert shown["Mountpoint"].endswith("/volumes/data/_data")
    assert target.ok("volume", "rm", "data") == "data"
    assert target.docker("volume", "inspect", "data").returncode == 1


def test_an_image_fills_an_empty_volume_once(target: Target) -> None:
    assert sh(target, "ls -l /bin/busybox | cut -c1-10", "-v", "fill:/bin") == "-rwxr-xr-x"
    sh(target, "rm /bin/true; touch /bin/own", "-v", "fill:/bin")
    assert sh(target, "ls /bin/own; ls /bin/true 2>&1 | tail -c 26", "-v", "fill:/bin").split() == (
        ["/bin/own", "No", "such", "file", "or", "directory"]
    )
    assert target.docker("run", "--rm", "-v", "raw:/bin:nocopy", "busybox", "true").returncode == 127


def test_a_volume_has_the_owner_and_mode_of_the_image_s_directory(target: Target) -> None:
    assert sh(target, "stat -c %a /tmp", "-v", "tmpv:/tmp") == sh(target, "stat -c %a /tmp")


def test_read_only_and_volumes_from(target: Target) -> None:
    target.ok(
        "run",
        "--name",
        "owner",
        "-v",
        "shared:/s",
        "-v",
        "/anon",
        "busybox",
        "sh",
        "-c",
        "echo 1 > /s/f; echo 2 > /anon/g",
    )
    assert sh(target, "cat /s/f /anon/g", "--volumes-from", "owner").split() == ["1", "2"]
    done = target.docker("run", "--rm", "--volumes-from", "owner:ro", "busybox", "touch", "/s/x")
    assert done.returncode == 1 and "Read-only file system" in done.stderr
    done = target.docker("run", "--rm", "-v", "shared:/s:ro", "busybox", "touch", "/s/x")
    assert done.returncode == 1 and "Read-only file system" in done.stderr


@pytest.mark.parametrize("target", ["real"], indirect=True)  # dockerd's since API 1.44
@pytest.mark.parametrize(("version", "access"), [("1.43", "rw"), ("1.44", "ro")])
def test_what_is_mounted_below_a_read_only_bind_is_read_only_too(target: Target, version: str, access: str) -> None:
    with contextlib.closing(DockerClient(target.socket, version=version)) as client:
        look = ["cat", "/proc/self/mountinfo"]
        table = client.containers.run("busybox", look, volumes=["/dev:/below:ro"], remove=True).decode()
    options = {fields[4]: fields[5] for fields in map(str.split, table.splitlines())}
    assert options["/below"].split(",")[0] == "ro"
    assert options["/below/shm"].split(",")[0] == access


def test_users_of_an_anonymous_volume_that_are_removed_at_once_take_it_along(target: Target) -> None:
    before = set(target.ok("volume", "ls", "-q").split())
    target.ok("create", "--name", "owner", "-v", "/anon", "busybox", "true")
    target.ok("create", "--name", "guest", "--volumes-from", "owner", "busybox", "true")
    target.ok("rm", "-v", "owner", "guest")  # the command line asks for all at once
    assert set(target.ok("volume", "ls", "-q").split()) == before


def test_the_last_user_of_an_anonymous_volume_takes_it_along(target: Target) -> None:
    """It was made for another one, who went first: nobody else would ever remove it."""
    target.ok("create", "--name", "owner", "-v", "/anon", "-v", "named:/n", "busybox", "true")
    target.ok("create", "--name", "guest", "--volumes-from", "owner", "busybox", "true")
    target.ok("create", "--name", "last", "--volumes-from", "guest", "-v", "named:/other", "busybox", "true")
    name = target.ok("inspect", "-f", '{{range .Mounts}}{{if eq .Destination "/anon"}}{{.Name}}{{end}}{{end}}', "last")
    for container in ("owner", "guest"):
        target.ok("rm", "-v", container)
        assert {name, "named"} <= set(target.ok("volume", "ls", "-q").split())
    target.ok("rm", "-v", "last")
    assert {name, "named"} & set(target.ok("volume", "ls", "-q").split()) == {"named"}


def test_anonymous_volumes_go_with_rm(target: Target) -> None:
    before = target.ok("volume", "ls", "-q").split()
    sh(target, "echo x > /a/f", "-v", "/a")
    assert target.ok("volume", "ls", "-q").split() == before
    target.ok("run", "--name", "kept", "-v", "/a", "busybox", "true")
    target.ok("rm", "kept")
    (left,) = set(target.ok("volume", "ls", "-q").split()) - set(before)
    assert left in target.ok("volume", "ls", "-q", "--filter", "dangling=true").split()
    assert left in target.ok("volume", "prune", "-f")


def test_a_volume_in_use_is_not_removed(target: Target) -> None:
    container = target.ok("create", "-v", "used:/u", "busybox", "true")
    done = target.docker("volume", "rm", "used")
    assert done.returncode == 1 and f"remove used: volume is in use - [{container}]" in done.stderr
    assert target.ok("ps", "-aq", "--no-trunc", "--filter", "volume=used") == container


def test_a_tmpfs_volume_is_shared_and_gone_with_its_last_user(target: Target) -> None:
    target.ok("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=5", "mem")
    target.ok("run", "-d", "--name", "holder", "-v", "mem:/m", "busybox", "sh", "-c", "echo x > /m/x; exec sleep 1000")
    script = "until [ -e /m/x ]; do :; done; cat /m/x; df -k /m | tail -1 | awk '{print $2}'; stat -c %u /m"
    assert sh(target, script, "-v", "mem:/m").split() == ["x", "1024", "5"]
    target.ok("rm", "-f", "holder")
    assert sh(target, "ls /m", "-v", "mem:/m") == ""


def test_volumes_with_options_are_neither_pruned_nor_counted(target: Target) -> None:
    target.ok("volume", "create", "--label", "mine", "-o", "type=tmpfs", "-o", "device=tmpfs", "fs")
    target.ok("volume", "create", "--label", "mine", "plain")
    listed = target.ok("system", "df", "-v", "--format", "{{range .Volumes}}{{.Name}} {{end}}").split()
    assert "plain" in listed and "fs" not in listed
    target.ok("volume", "prune", "-f", "--filter", "label=mine", *all_of(target))
    assert set(target.ok("volume", "ls", "-q", "--filter", "label=mine").split()) == {"fs"}


def all_of(target: Target) -> list[str]:
    """What has named volumes pruned, too: dockerd 20.10 prunes them unasked."""
    return [] if target.kind == "dockerd" else ["-a"]


def test_a_directory_of_the_host_by_a_volume_that_nobody_may_write_to(target: Target, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there", "missing"):
        options = ["-o", "type=none", "-o", f"device={tmp_path}/{name}", "-o", "o=bind,ro"]
        target.ok("volume", "create", *options, name)
    done = target.docker("run", "--rm", "-v", "there:/d", "busybox", "touch", "/d/f")
    assert done.returncode == 1 and "Read-only file system" in done.stderr
    done = target.docker("run", "--rm", "-v", "missing:/d", "busybox", "true")
    assert done.returncode == 127 and "failed to mount local volume: mount " in done.stderr
    assert "flags: 0x1001: no such file or directory" in done.stderr


def test_a_volume_that_is_a_directory_of_the_host(target: Target) -> None:
    place = target.base / "bound"
    place.mkdir(exist_ok=True)
    (place / "f").write_text("host")
    target.ok("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", f"device={place}", "bound")
    assert sh(target, "cat /b/f; echo in > /b/g", "-v", "bound:/b") == "host"
    assert (place / "g").read_text() == "in\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["volume", "create", "x"], "volume name is too short"),
        (["volume", "create", "a/b"], "includes invalid characters for a local volume name"),
        (["volume", "create", "-o", "foo=bar", "xx"], "invalid option"),
        (["volume", "create", "-d", "nosuch", "xx"], 'plugin "nosuch" not found'),
        (["volume", "rm", "nosuch"], "no such volume"),
        (["volume", "ls", "--filter", "foo=bar"], "invalid filter"),
        (["volume", "prune", "-f", "--filter", "until=1h"], "filter"),
        (
            ["run", "--rm", "--mount", "type=volume,src=sub,dst=/s,volume-opt=foo=1", "busybox", "true"],
            "invalid option",
        ),
    ],
)
def test_bad_requests(target: Target, arguments: list[str], words: str) -> None:
    done = target.docker(*arguments)
    assert done.returncode != 0 and words in done.stderr.lower().replace("no such volume: nosuch", "no such volume")


@pytest.mark.parametrize("length", [2, 249, 255])
def test_names_of_any_length(target: Target, length: int) -> None:
    name = "v" * length
    assert target.ok("volume", "create", name).strip() == name
    assert sh(target, "echo in > /v/f; cat /v/f", "-v", f"{name}:/v") == "in"
    target.ok("volume", "rm", name)


def test_events(target: Target) -> None:
    start = target.ok("info", "--format", "{{.SystemTime}}")
    sh(target, "true", "-v", "seen:/s")
    target.ok("volume", "rm", "seen")
    end = str(int(time.time()) + 1)
    shown = target.ok("events", "--since", start, "--until", end, "--filter", "volume=seen", "--format", "{{.Action}}")
    assert shown.split() == ["create", "mount", "unmount", "destroy"]


def test_docker_py(target: Target, client: DockerClient) -> None:
    made = client.volumes.create(name="pyvol", driver="local", labels={"k": "v"})
    assert [each.name for each in client.volumes.list(filters={"label": "k=v"})] == ["pyvol"]
    assert client.volumes.get("pyvol").attrs["Labels"] == {"k": "v"}
    client.containers.run("busybox", "touch /v/f", volumes={"pyvol": {"bind": "/v", "mode": "rw"}}, remove=True)
    made.remove()
    with pytest.raises(NotFound):
        client.volumes.get("pyvol")
    with pytest.raises(APIError):
        client.volumes.create(name="pyvol", driver="nosuch")
    unnamed = client.volumes.create()
    assert len(unnamed.name) == 64
    assert client.volumes.prune(filters={"label": "nosuch"})["VolumesDeleted"] in (None, [])
    unnamed.remove()
