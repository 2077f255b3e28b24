"""`docker cp` and the archive endpoints, beside dockerd: of containers that run, and that never ran."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from docker import DockerClient
from docker.errors import APIError, NotFound

from tests.compat.conftest import Target


@pytest.fixture(params=["real", "dockerd"])
def target(target: Target) -> Target:
    """The engines that have containers of their own."""
    return target


@pytest.fixture(params=["created", "running"])
def box(target: Target, request: pytest.FixtureRequest) -> str:
    options = ["--name", "box", "-v", "/data", "busybox", "sleep", "600"]
    target.ok("create" if request.param == "created" else "run", *(["-d"] * (request.param == "running")), *options)
    return "box"


def tar(*members: tuple[str, bytes | None]) -> bytes:
    """Files with their content; None makes a directory."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size, info.mode, info.uid, info.gid = len(content or b""), 0o750, 7, 8
            archive.addfile(info, io.BytesIO(content or b""))
    return held.getvalue()


def read(target: Target, place: str) -> dict[str, tarfile.TarInfo]:
    done = target.docker("cp", place, "-")
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout.encode())) as archive:
        return {info.name: info for info in archive}


def test_there_and_back(target: Target, box: str, tmp_path: Path) -> None:
    (tmp_path / "dir/sub").mkdir(parents=True)
    (tmp_path / "dir/sub/file").write_text("content")
    (tmp_path / "dir/link").symlink_to("sub/file")
    target.ok("cp", f"{tmp_path}/dir", f"{box}:/new")
    target.ok("cp", f"{tmp_path}/dir/.", f"{box}:/tmp")
    target.ok("cp", f"{tmp_path}/dir/sub/file", f"{box}:/data/renamed")
    target.ok("cp", f"{box}:/new", f"{tmp_path}/back")
    assert (tmp_path / "back/link").readlink() == Path("sub/file")
    assert (tmp_path / "back/sub/file").read_text() == "content"
    assert {"tmp", "tmp/link", "tmp/sub", "tmp/sub/file"} <= set(read(target, f"{box}:/tmp"))
    assert set(read(target, f"{box}:/data/.")) == {".", "./renamed"}
    assert target.docker("start", box).returncode == 0
    assert target.ok("exec", box, "cat", "/data/renamed", "/tmp/link") == "contentcontent"


def test_symlinks_are_the_containers_own(target: Target, box: str, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "out").symlink_to("/etc")
    (links / "gone").symlink_to("/nowhere/at/all")
    target.ok("cp", f"{links}/.", f"{box}:/root")
    assert read(target, f"{box}:/root/out")["out"].linkname == "/etc"
    assert "out/passwd" in read(target, f"{box}:/root/out/")
    target.ok("cp", "-L", f"{box}:/root/out", f"{tmp_path}/etc")
    assert "root" in (tmp_path / "etc/passwd").read_text()
    (tmp_path / "mark").write_text("here")
    target.ok("cp", f"{tmp_path}/mark", f"{box}:/root/out/mark")
    assert "mark" in read(target, f"{box}:/etc/mark")
    assert not Path("/etc/mark").exists()
    assert target.docker("cp", f"{box}:/root/gone/", "-").returncode != 0


def test_errors(client: DockerClient, target: Target, box: str, tmp_path: Path) -> None:
    missing = target.docker("cp", f"{box}:/nope", "-")
    assert missing.returncode == 1
    assert missing.stderr.strip() == "Error response from daemon: Could not find the file /nope in container box"
    container = client.containers.get(box)
    with pytest.raises(NotFound):
        container.put_archive("/nope", tar(("f", b"")))
    container.put_archive("/tmp", tar(("file", b"x"), ("dir", None)))
    with pytest.raises(APIError, match="extraction point is not a directory"):
        container.put_archive("/tmp/file", tar(("f", b"")))
    url = f"{client.api.base_url}/v1.41/containers/{box}/archive?path=/tmp&noOverwriteDirNonDir=true"
    answer = client.api.put(url, data=tar(("dir", b"a file")))
    assert answer.status_code >= 400 and "cannot overwrite directory" in answer.json()["message"]
    answer = client.api.put(url, data=tar(("file", None)))
    assert answer.status_code >= 400 and "cannot overwrite non-directory" in answer.json()["message"]
    assert container.put_archive("/tmp", tar(("dir", b"a file"), ("file", None)))


@pytest.mark.parametrize("ending", ["/", "/.", "/x"])
def test_a_file_is_not_taken_for_a_directory(target: Target, box: str, tmp_path: Path, ending: str) -> None:
    """A slash at the end says that a directory is meant: what comes must not replace a file, nor be made of one."""
    for name in ("first", "other"):
        (tmp_path / name).write_text(name)
    (tmp_path / "tree").mkdir()
    target.ok("cp", f"{tmp_path}/first", f"{box}:/root/file")
    out = target.docker("cp", f"{box}:/root/file{ending}", f"{tmp_path}/out")
    assert out.returncode == 1
    assert out.stderr.strip().endswith(f"/root/file{ending}: not a directory"), out.stderr
    assert not (tmp_path / "out").exists()
    for name in ("other", "tree"):
        assert target.docker("cp", f"{tmp_path}/{name}", f"{box}:/root/file{ending}").returncode == 1
    assert target.docker("start", box).returncode == 0
    assert target.ok("exec", box, "cat", "/root/file") == "first"


def test_a_working_directory_is_there_from_the_create_on(target: Target, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("copied before the start")
    target.ok("create", "--name", "box", "-w", "/tmp/../new/./deep", "busybox", "cat", "file")
    assert set(target.ok("diff", "box").splitlines()) == {"A /new", "A /new/deep"}
    assert target.ok("inspect", "-f", "{{.Config.WorkingDir}}", "box") == "/new/deep"
    assert read(target, "box:/new")["new/deep"].mode & 0o7777 == 0o755
    target.ok("cp", f"{tmp_path}/file", "box:/new/deep/")
    assert target.ok("start", "-a", "box") == "copied before the start"
    target.ok("create", "--name", "there", "-w", "/bin", "busybox", "true")
    assert target.ok("diff", "there") == ""


@pytest.mark.parametrize("path", ["/bin/busybox", "/bin/busybox/below"])
def test_a_working_directory_that_cannot_be_is_told_at_the_create(target: Target, path: str) -> None:
    done = target.docker("create", "--name", "box", "-w", path, "busybox", "true")
    assert (done.returncode, "not a directory" in done.stderr) == (1, True), done.stderr
    assert target.ok("ps", "-aq", "--filter", "name=box") == ""


def test_what_docker_py_is_told(client: DockerClient, box: str) -> None:
    container = client.containers.get(box)
    container.put_archive("/tmp", tar(("f", b"12345")))
    pieces, stat = container.get_archive("/tmp/f")
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        (info,) = archive.getmembers()
    assert (info.name, info.size, info.mode & 0o7777, info.uid, info.gid) == ("f", 5, 0o750, 7, 8)
    assert (stat["name"], stat["size"], stat["mode"], stat["linkTarget"]) == ("f", 5, 0o750, "")
    _, stat = container.get_archive("/bin")
    assert stat["mode"] & 1 << 31 and stat["name"] == "bin"


def test_the_root_directory_is_copied_as_the_container_has_it(client: DockerClient, box: str) -> None:
    """It is seen through a layer that is the copying process's own: unpacking it gave away a directory."""
    pieces, stat = client.containers.get(box).get_archive("/")
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        root = archive.next()
    assert root is not None and root.isdir()
    assert (stat["mode"] & 0o7777, root.mode & 0o7777, root.uid, root.gid) == (0o755, 0o755, 0, 0)


def test_read_only_places(target: Target, tmp_path: Path) -> None:
    (tmp_path / "bound").mkdir()
    (tmp_path / "f").write_text("x")
    places = ["-v", f"{tmp_path}/bound:/ro:ro", "-v", "rwvolume:/rw"]
    target.ok("create", "--name", "box", "--read-only", *places, "busybox", "sleep", "600")
    for _ in ("created", "running"):
        bad = target.docker("cp", f"{tmp_path}/f", "box:/ro/f")
        assert (bad.returncode, "mounted volume is marked read-only" in bad.stderr) == (1, True)
        bad = target.docker("cp", f"{tmp_path}/f", "box:/tmp/f")
        assert (bad.returncode, "container rootfs is marked read-only" in bad.stderr) == (1, True)
        target.ok("cp", f"{tmp_path}/f", "box:/rw/f")
        target.ok("start", "box")
    assert target.ok("exec", "box", "cat", "/rw/f") == "x"
    target.ok("rm", "-f", "box")
    target.ok("volume", "rm", "rwvolume")
