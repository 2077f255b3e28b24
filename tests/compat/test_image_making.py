"""export, diff, commit and import: a container's files as a whole, and images made of them."""

from __future__ import annotations

import functools
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from docker import DockerClient

from tests.compat.conftest import Target

pytestmark = pytest.mark.parametrize("target", ["real", "dockerd"], indirect=True)
SCRIPT = """
echo new >/new; echo more >/etc/own; rm -r /tmp; mkdir /dir /dir/sub; ln -s new /link; ln /new /hard
rm -r /root; mkdir /root; echo x >/root/x; mkfifo /fifo; chmod 4711 /new; chown 3:4 /dir
"""


@pytest.fixture(autouse=True)
def no_images_left(target: Target) -> Iterator[None]:
    if target.docker("image", "inspect", "busybox").returncode:
        target.ok("pull", "busybox")
    yield
    left = set(target.ok("images", "-aq", "--no-trunc").split()) - {target.ok("images", "-q", "--no-trunc", "busybox")}
    if left:
        target.docker("rmi", "-f", *left)


@pytest.fixture
def changed(target: Target) -> str:
    """A stopped container that changed things."""
    target.ok("run", "--name", "changed", "-v", "/mnt/volume", "busybox", "sh", "-ec", SCRIPT)
    return "changed"


def members(packed: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        return {member.name: member for member in archive}


def exported(client: DockerClient, name: str) -> bytes:
    return b"".join(client.containers.get(name).export())


def test_diff_tells_what_the_container_did(target: Target, changed: str) -> None:
    told = target.ok("diff", changed).splitlines()
    mount_point = {"A /mnt", "A /mnt/volume"}
    wanted = "A /dir|A /dir/sub|C /etc|A /etc/own|A /fifo|A /hard|A /link|A /new|C /root|A /root/x|D /tmp"
    assert sorted(set(told) - mount_point) == sorted(wanted.split("|"))


def test_diff_of_an_untouched_container_is_empty(target: Target, client: DockerClient) -> None:
    target.ok("run", "--name", "still", "busybox", "true")
    target.ok("create", "--name", "unborn", "busybox", "true")
    assert (target.ok("diff", "still"), target.ok("diff", "unborn")) == ("", "")
    assert target.docker("diff", "nosuch").stderr.strip().endswith("No such container: nosuch")


def test_export_is_the_merged_tree(target: Target, client: DockerClient, changed: str) -> None:
    found = members(exported(client, changed))
    assert (found["new"].mode & 0o7777, found["new"].size + found["hard"].size) == (0o4711, 4)
    assert {found["new"].type, found["hard"].type} == {tarfile.REGTYPE, tarfile.LNKTYPE}
    assert (found["link"].linkname, found["fifo"].type) == ("new", tarfile.FIFOTYPE)
    assert (found["dir"].uid, found["dir"].gid, found["dir"].isdir()) == (3, 4, True)
    assert "bin/busybox" in found or "bin/sh" in found
    assert not {"tmp", "bin/.wh.tmp", ".wh.tmp", "."} & found.keys()
    assert "root/x" in found and list(found) == sorted(found, key=lambda name: name.split("/"))


def test_export_of_a_running_container(target: Target, client: DockerClient) -> None:
    script = "i=0; mkdir /busy; while :; do i=$((i+1)); echo $i >/busy/$((i%50)); rm -f /busy/$((i%50-7)); done"
    target.ok("run", "-d", "--name", "busy", "busybox", "sh", "-c", script)
    for _ in range(3):
        assert "busy" in members(exported(client, "busy"))
    target.ok("rm", "-f", "busy")


def test_commit_makes_a_runnable_image(target: Target, changed: str) -> None:
    target.ok(
        "commit", "-m", "why", "-a", "who", "-c", 'CMD ["cat", "/new"]', "-c", "ENV A=1 B='2 3'", changed, "made:1"
    )
    assert target.ok("run", "--rm", "made:1") == "new"
    assert target.ok("run", "--rm", "made:1", "sh", "-c", "test ! -e /tmp && ls /root && echo $A,$B") == "x\n1,2 3"
    (shown,) = json.loads(target.ok("inspect", "made:1"))
    assert (shown["Comment"], shown["Author"], shown["RepoTags"]) == ("why", "who", ["made:1"])
    (base,) = json.loads(target.ok("inspect", "busybox"))
    assert shown["RootFS"]["Layers"][:-1] == base["RootFS"]["Layers"]
    history = target.ok("history", "--no-trunc", "--format", "{{.Comment}}|{{.CreatedBy}}", "made:1").split("\n")[0]
    assert history.startswith("why|sh -ec")


def test_commit_changes(target: Target) -> None:
    target.ok("run", "--name", "cc", "-e", "KEEP=1", "-w", "/tmp", "--label", "l=1", "busybox", "true")
    changes = [
        "EXPOSE 80 90/udp", "VOLUME /data /more", "WORKDIR sub", "USER 1:2", "LABEL a=b c='d e'",
        "ENTRYPOINT /bin/x", "ONBUILD RUN true", "ENV OLD style value", "ENV P=${KEEP}x",
        "HEALTHCHECK --interval=5s --retries=3 CMD true",
    ]  # fmt: skip
    flags = [word for change in changes for word in ("-c", change)]
    target.ok("commit", *flags, "cc", "changed:1")
    config = json.loads(target.ok("inspect", "changed:1"))[0]["Config"]
    assert set(config["ExposedPorts"]) == {"80/tcp", "90/udp"} and set(config["Volumes"]) == {"/data", "/more"}
    assert (config["WorkingDir"], config["User"]) == ("/tmp/sub", "1:2")
    assert config["Labels"].items() >= {"a": "b", "c": "d e", "l": "1"}.items()
    assert config["Entrypoint"] == ["/bin/sh", "-c", "/bin/x"] and not config.get("Cmd")
    assert config["OnBuild"] == ["RUN true"]
    assert {"KEEP=1", "OLD=style value", "P=1x"} <= set(config["Env"])
    check = {"Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9, "Retries": 3}
    assert config["Healthcheck"].items() >= check.items()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("FROM x", "from is not a valid change command"),
        ("FOO x", "foo is not a valid change command"),
        ("EXPOSE notaport", "invalid"),
        ("ENV", "requires at least one argument"),
    ],
)
def test_commit_refuses_bad_changes(target: Target, change: str, words: str) -> None:
    target.ok("create", "--name", "cc", "busybox", "true")
    before = target.ok("images", "-aq")
    done = target.docker("commit", "-c", change, "cc")
    assert done.returncode == 1 and words.lower() in done.stderr.lower()
    assert target.ok("images", "-aq") == before


def test_commit_of_a_running_container_leaves_it_running(target: Target, client: DockerClient) -> None:
    target.ok("run", "-d", "--name", "alive", "busybox", "sh", "-c", "echo x >/x; exec sleep 1000")
    image = client.containers.get("alive").commit(repository="from/running", tag="t", message="m")
    assert image.tags == ["from/running:t"]
    assert target.ok("inspect", "-f", "{{.State.Status}}", "alive") == "running"
    target.ok("commit", "--pause=false", "alive", "again")


def test_commits_of_one_container_wait_for_each_other(target: Target, client: DockerClient) -> None:
    target.ok("run", "-d", "--name", "alive", "busybox", "sleep", "1000")
    container = client.containers.get("alive")
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda number: container.commit(repository="from/many", tag=str(number)), range(6)))
    assert [image.tags for image in made] == [[f"from/many:{number}"] for number in range(6)]
    assert target.ok("inspect", "-f", "{{.State.Status}}", "alive") == "running"


def test_import_and_export_are_inverse(target: Target, client: DockerClient, changed: str) -> None:
    packed = exported(client, changed)
    target.ok("import", "-m", "note", "-c", "CMD cat /new", "-c", "ENV PATH=/bin", "-", "imported:1", input=packed)
    assert target.ok("run", "--rm", "imported:1") == "new"
    (shown,) = json.loads(target.ok("inspect", "imported:1"))
    assert (shown["Comment"], shown["Config"]["Cmd"], len(shown["RootFS"]["Layers"])) == (
        "note", ["/bin/sh", "-c", "cat /new"], 1,
    )  # fmt: skip
    target.ok("create", "--name", "again", "imported:1")
    first, second = members(packed), members(exported(client, "again"))
    for name, member in first.items():
        if name.split("/")[0] in ("dev", "etc", "proc", "sys", ".dockerenv"):
            continue  # the engine's own, made at each start
        other = second[name]
        assert (member.mode, member.uid, member.gid, member.type, member.linkname, member.mtime) == (
            other.mode, other.uid, other.gid, other.type, other.linkname, other.mtime,
        ), name  # fmt: skip


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_import_of_compressed_tars(target: Target, compression: str) -> None:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode=f"w:{compression}") as archive:  # type: ignore[call-overload]
        archive.addfile(tarfile.TarInfo("hello"), io.BytesIO())
    image = target.ok("import", "-", input=held.getvalue()).split("\n")[-1]
    assert image.startswith("sha256:")
    target.ok("create", "--name", "cc", image, "x")


def test_import_from_a_url(target: Target, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "root.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("hello"), io.BytesIO())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/root.tar.gz"
            target.ok("import", url, "fetched:1")
            (shown,) = json.loads(target.ok("inspect", "fetched:1"))
            assert shown["Comment"] == f"Imported from {url}"
            assert target.docker("import", f"{url}.nosuch", "absent:1").returncode == 1
        finally:
            server.shutdown()
            thread.join()
    assert target.docker("import", url, "absent:1").returncode == 1
    assert target.docker("image", "inspect", "absent:1").returncode == 1


def test_import_of_what_is_no_tar(target: Target) -> None:
    before = target.ok("images", "-aq")
    assert target.docker("import", "-", "bad", input=b"this is no archive" * 100).returncode == 1
    assert target.ok("images", "-aq") == before


@pytest.mark.parametrize(
    ("platform", "words"),
    [
        ("/", "is an invalid component"),
        ("macos/arm64", "operating system is not supported"),
        ("nintendo64", "unknown operating system or architecture"),
    ],
)
def test_import_for_a_platform_that_is_none(target: Target, platform: str, words: str) -> None:
    done = target.docker("import", "--platform", platform, "-", "bad", input=b"\0" * 1024)
    assert done.returncode == 1
    if not (target.kind == "dockerd" and platform == "/"):  # 20.10 has another word for it
        assert words in done.stderr
    assert target.docker("image", "inspect", "bad").returncode == 1
