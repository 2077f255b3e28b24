"""`bulkhead-runtime` beneath other people's engines: podman with conmon, dockerd with containerd's shim, ctr.

Each engine has directories, sockets and processes of its own; where one is not installed its tests are skipped.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.linux.cgroups import hierarchies
from tests.support.containers import BUSYBOX, make_image
from tests.support.peers import remove_everywhere
from tests.support.terminal import terminal

PATIENCE = 60.0
LOOP = "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done"


class Peer:
    """An engine's command line, told to use our runtime."""

    def __init__(self, command: list[str], run: list[str]) -> None:
        self.command = command
        self._run = run

    def __call__(self, *words: str, status: int = 0, stdin: bytes | None = None) -> str:
        done = subprocess.run(
            [*self.command, *words],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        output = done.stdout.decode(errors="replace")
        assert done.returncode == status, f"{words}: {output}"
        return output

    def run_words(self, *words: str) -> list[str]:
        return ["run", *self._run, *words]

    def run(self, *words: str, status: int = 0) -> str:
        return self(*self.run_words(*words), status=status)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Short: sockets are below it."""
    if os.geteuid() != 0 or not BUSYBOX.exists():
        pytest.skip("containers need root and busybox")
    directory = Path(f"/tmp/bh-peer-{secrets.token_hex(3)}")
    directory.mkdir()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def runtime() -> str:
    """The executable by absolute path, as engines want it."""
    return str(Path(sys.executable).with_name("bulkhead-runtime"))


def image_tar(place: Path) -> bytes:
    if not (place / "image").exists():
        make_image(place / "image")
    return subprocess.run(["tar", "-C", str(place / "image"), "-c", "."], capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def podman(place: Path, runtime: str) -> Iterator[Peer]:
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    own = place / "podman"
    places = ["--root", str(own / "root"), "--runroot", str(own / "run"), "--tmpdir", str(own / "tmp")]
    manner = ["--cgroup-manager", "cgroupfs", "--events-backend", "none", "--storage-driver", "vfs"]
    parent = ["--cgroup-parent", f"/bh-peer-{secrets.token_hex(3)}"]
    peer = Peer(["podman", *places, *manner, "--runtime", runtime], ["--network", "none", *parent])
    peer("import", "-", "box", stdin=image_tar(place))
    yield peer
    peer("rm", "--all", "--force", "--time", "0")
    remove_everywhere(parent[1])


@pytest.fixture(scope="module")
def dockerd(place: Path, runtime: str) -> Iterator[Peer]:
    if shutil.which("dockerd") is None or shutil.which("docker") is None:
        pytest.skip("dockerd or the docker CLI is not installed")
    own = place / "dockerd"
    own.mkdir()
    socket = own / "d.sock"
    places = ["--data-root", str(own / "data"), "--exec-root", str(own / "exec"), "--pidfile", str(own / "pid")]
    parent = f"/bh-peer-{secrets.token_hex(3)}"
    isolated = ["--iptables=false", "--ip6tables=false", "--bridge=none", "--cgroup-parent", parent]
    command = ["dockerd", "-H", f"unix://{socket}", *places, *isolated, "--add-runtime", f"bh={runtime}"]
    with (own / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as daemon:
        try:
            wait_for(socket)
            peer = Peer(["docker", "-H", f"unix://{socket}"], ["--runtime", "bh", "--network", "none"])
            peer("import", "-", "box", stdin=image_tar(place))
            yield peer
        finally:
            daemon.terminate()
            daemon.wait(PATIENCE)
            remove_everywhere(parent)


def wait_for(socket: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not socket.exists():
        assert time.monotonic() < deadline, "dockerd does not listen"
        time.sleep(0.05)


@pytest.fixture(params=["podman", "dockerd"])
def peer(request: pytest.FixtureRequest) -> Peer:
    found: Peer = request.getfixturevalue(request.param)
    return found


def test_output_and_exit_status(peer: Peer) -> None:
    assert peer.run("--rm", "box", "echo", "hi") == "hi\n"
    assert peer.run("--rm", "box", "sh", "-c", "exit 7", status=7) == ""
    peer.run("--rm", "box", "/no/such/program", status=127)
    assert peer("ps", "-aq") == ""


def test_a_life_with_limits_exec_pause_and_stop(peer: Peer) -> None:
    peer.run("-d", "--name", "life", "--memory", "64m", "--pids-limit", "33", "box", "sh", "-c", LOOP)
    try:
        assert peer("exec", "life", "sh", "-c", "echo inside; exit 4", status=4) == "inside\n"
        pid = int(peer("inspect", "--format", "{{.State.Pid}}", "life"))
        assert limits(pid) == ("67108864", "33")
        assert peer("top", "life").count("sh -c") == 1
        peer("pause", "life")
        assert "aused" in peer("inspect", "--format", "{{.State.Status}}", "life")
        peer("unpause", "life")
        peer("stop", "-t", "10", "life")
        assert peer("inspect", "--format", "{{.State.ExitCode}}", "life") == "5\n"
        assert "up\n" in peer("logs", "life")
    finally:
        peer("rm", "-f", "life")


def limits(pid: int) -> tuple[str, str]:
    """Memory and pids of the process's cgroup."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    paths = {name: path for _, names, path in (line.split(":", 2) for line in lines) for name in names.split(",")}
    if hierarchies().is_v2:
        files = [f"{hierarchies().unified}{paths['']}/{name}" for name in ("memory.max", "pids.max")]
    else:
        v1 = hierarchies().v1
        files = [f"{v1['memory']}{paths['memory']}/memory.limit_in_bytes", f"{v1['pids']}{paths['pids']}/pids.max"]
    memory, pids = (Path(file).read_text().strip() for file in files)
    return memory, pids


def test_a_terminal(peer: Peer) -> None:
    with terminal([*peer.command, *peer.run_words("--rm", "-it", "box", "sh")], os.environ) as person:
        person.send(b"tty; stty size; exit 3\n")
        person.expect(b"/dev/pts/0")
        assert person.ends() == 3
    peer.run("-d", "--name", "tty", "box", "sh", "-c", LOOP)
    try:
        with terminal([*peer.command, "exec", "-it", "tty", "sh"], os.environ) as person:
            person.send(b"tty; exit 6\n")
            person.expect(b"/dev/pts/0")
            assert person.ends() == 6
    finally:
        peer("rm", "-f", "tty")


def test_confinement_as_asked(peer: Peer) -> None:
    told = peer.run(
        "--rm", "--user", "1000", "--read-only", "--tmpfs", "/tmp", "box", "sh", "-c", "touch /x 2>/dev/null || id -u"
    )
    assert told == "1000\n"
    assert "Seccomp:\t2" in peer.run("--rm", "box", "grep", "Seccomp:", "/proc/self/status")


def test_a_process_that_wants_too_much_memory(peer: Peer) -> None:
    script = "x=$(yes | head -c 60000000 | tr -d y); echo survived"
    peer.run("--rm", "--memory", "16m", "box", "sh", "-c", f"exec sh -c {script!r}", status=137)


@pytest.fixture
def containerd(place: Path) -> Iterator[Path]:
    """A containerd of our own; its socket."""
    if shutil.which("containerd") is None or shutil.which("ctr") is None:
        pytest.skip("containerd is not installed")
    own = place / "ctrd"
    own.mkdir()
    config = own / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{own}/root"\nstate = "{own}/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\n  address = "{own}/c.sock"\n[ttrpc]\n  address = "{own}/t.sock"\n'
    )
    with (own / "log").open("wb") as log:
        with subprocess.Popen(["containerd", "--config", str(config)], stdout=log, stderr=log) as daemon:
            try:
                wait_for(own / "c.sock")
                yield own / "c.sock"
            finally:
                daemon.terminate()
                daemon.wait(PATIENCE)


def test_containerd_runs_a_root_file_system(containerd: Path, place: Path, runtime: str) -> None:
    image_tar(place)
    ctr = Peer(["ctr", "--address", str(containerd)], [])
    parent = f"/bh-peer-{secrets.token_hex(3)}"
    options = ["--rootfs", "--runc-binary", runtime, "--cgroup", f"{parent}/one"]
    assert ctr("run", "--rm", *options, str(place / "image"), "one", "/bin/echo", "hi") == "hi\n"
    ctr("run", "--rm", *options, str(place / "image"), "one", "/bin/sh", "-c", "exit 9", status=9)
    remove_everywhere(parent)
