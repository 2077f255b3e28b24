"""`userns_remap`: root of a container is nobody on the host, and everything else is as it was."""

from __future__ import annotations

import os
import secrets
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine, private_engine
from tests.support.eventually import until
from tests.support.remapping import COUNT, FIRST, remapping_config

MAP = f"0 {FIRST} {COUNT}"
LOOP = "echo armed; while :; do sleep 0.05; done"


def run(engine: Engine, *arguments: str) -> str:
    return engine.docker_ok("run", "--rm", *arguments)


def state(engine: Engine, name: str, what: str) -> str:
    return engine.docker_ok("inspect", "-f", f"{{{{{what}}}}}", name)


def begin(engine: Engine, name: str, *arguments: str, script: str = LOOP) -> int:
    """A running container's pid, once its process has begun."""
    engine.docker_ok("run", "-d", "--name", name, *arguments, "busybox", "sh", "-c", script)
    until(lambda: "armed" in engine.docker_ok("logs", name))
    return int(state(engine, name, ".State.Pid"))


def owner(pid: int) -> tuple[int, int]:
    info = Path(f"/proc/{pid}").stat()
    return info.st_uid, info.st_gid


def upper_of(engine: Engine, name: str) -> Path:
    identity = state(engine, name, ".Id")
    return engine.instance.data / "snapshots" / "containers" / identity / "upper"


def test_root_inside_is_nobody_outside(remapping_engine: Engine) -> None:
    engine = remapping_engine
    remapped, plain = begin(engine, "remapped"), begin(engine, "plain", "--userns", "host")
    assert (owner(remapped), owner(plain)) == ((FIRST, FIRST), (0, 0))
    assert str(engine.base) not in Path("/proc/self/mountinfo").read_text()
    assert "name=userns" in engine.api("GET", "/info").json["SecurityOptions"]
    assert [state(engine, name, ".HostConfig.UsernsMode") for name in ("remapped", "plain")] == ["", "host"]
    told = engine.docker_ok("exec", "remapped", "cat", "/proc/self/uid_map", "/proc/self/gid_map")
    assert [line.split() for line in told.splitlines()] == [MAP.split()] * 2


# What a container asks for, what it does, what it says then.
LINES: tuple[tuple[tuple[str, ...], str, tuple[str, ...]], ...] = (
    ((), "id -u; stat -c %u:%g / /etc /etc/passwd /etc/hosts /etc/resolv.conf", ("0", *["0:0"] * 5)),
    ((), "echo told > /dev/stdout; echo '127.0.0.9 me' >> /etc/hosts; grep -c me /etc/hosts", ("told", "1")),
    (("-u", "1000:50"), "id -u; id -g; echo told > /dev/stdout", ("1000", "50", "told")),
    (("--read-only",), "touch /x 2>&1; touch /dev/shm/x && echo shm", ("touch: /x: Read-only file system", "shm")),
    (("--tmpfs", "/t", "--tmpfs", "/u:uid=5,mode=700"), "touch /t/x; stat -c %u:%a /t /u", ("0:1777", "5:700")),
    (("--ipc", "shareable"), "stat -c %u:%a /dev/shm; touch /dev/shm/x; stat -c %u /dev/shm/x", ("0:1777", "0")),
    (("-w", "/made/here"), "pwd; touch x; stat -c %u:%a /made . x", ("/made/here", "0:755", "0:755", "0:644")),
    (("--init",), "sleep 0; cat /proc/1/comm", ("docker-init",)),
    (("-m", "32m", "--pids-limit", "50", "--ulimit", "nofile=99"), "ulimit -n; id -u", ("99", "0")),
    (("--sysctl", "net.ipv4.ip_forward=1"), "cat /proc/sys/net/ipv4/ip_forward; hostname x 2>&1 | wc -l", ("1", "1")),
    (
        ("--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN"),
        "hostname new; hostname; mount -t tmpfs x /tmp && echo mounted; ip addr add 10.9.9.9/32 dev lo && echo added",
        ("new", "mounted", "added"),
    ),
    (
        (),
        "mknod /x c 1 3 2>&1; chown 65536 /etc/group 2>&1; ip addr add 10.9.9.9/32 dev lo 2>&1 | grep -c permitted",
        ("mknod: /x: Operation not permitted", "chown: /etc/group: Invalid argument", "1"),
    ),
    (("--device", "/dev/kmsg"), "stat -c %t:%T /dev/kmsg; cat /proc/keys | wc -c", ("1:b", "0")),
    (
        ("--cgroupns", "private"),
        "for f in $(find /sys/fs/cgroup -type f); do (: >> $f) 2>&1; done | sed 's/.*: //' | sort -u",
        ("Permission denied",),
    ),
    (("--network", "none", "-h", "box"), "hostname; ls /sys/class/net", ("box", "lo")),
)


@pytest.mark.parametrize(("options", "script", "told"), LINES, ids=[" ".join(line[0]) or line[1] for line in LINES])
def test_options(remapping_engine: Engine, options: tuple[str, ...], script: str, told: tuple[str, ...]) -> None:
    if "--network" not in options:
        options = (*options, "--network", "none")
    assert run(remapping_engine, *options, "busybox", "sh", "-c", script).splitlines() == list(told)


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (
            ("--privileged",),
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace "
            "when running privileged mode",
        ),
        (("--network", "host"), "cannot share the host's network namespace when user namespaces are enabled"),
        (("--pid", "host"), "cannot share the host PID namespace when user namespaces are enabled"),
    ],
)
def test_what_cannot_be_remapped_is_refused(remapping_engine: Engine, option: tuple[str, ...], reason: str) -> None:
    refused = remapping_engine.docker("create", *option, "busybox")
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (1, f"Error response from daemon: {reason}")
    map_of_host = run(remapping_engine, "--userns", "host", *option, "busybox", "cat", "/proc/self/uid_map")
    assert map_of_host.split() == ["0", "0", "4294967295"]


def test_other_runtimes_are_refused(remapping_engine: Engine, tmp_path: Path) -> None:
    if "runc" not in remapping_engine.api("GET", "/info").json["Runtimes"] or not Path("/usr/sbin/runc").exists():
        pytest.skip("runc is not installed")
    refused = remapping_engine.docker("run", "--rm", "--runtime", "runc", "busybox")
    assert refused.returncode == 125 and "--userns=host" in refused.stderr
    assert run(remapping_engine, "--runtime", "runc", "--userns", "host", "busybox", "echo", "ran") == "ran"


def test_files_of_the_host_stay_the_host_s(remapping_engine: Engine, tmp_path: Path) -> None:
    """A bind is not shifted: root inside is to it whom the host's user is. Its missing source is made for that user."""
    (tmp_path / "secret").write_text("hidden")
    (tmp_path / "secret").chmod(0o600)
    tmp_path.chmod(0o755)
    bind = ("--network", "none", "-v", f"{tmp_path}:/b")
    script = "cat /b/secret 2>&1; touch /b/new 2>&1; stat -c %u /b/secret"
    assert run(remapping_engine, *bind, "busybox", "sh", "-c", script).splitlines() == [
        "cat: can't open '/b/secret': Permission denied",
        "touch: /b/new: Permission denied",
        "65534",
    ]
    assert run(remapping_engine, "--userns", "host", *bind, "busybox", "cat", "/b/secret") == "hidden"
    made = tmp_path / "made" / "here"
    run(remapping_engine, "--network", "none", "-v", f"{made}:/m", "busybox", "touch", "/m/mine")
    assert [path.stat().st_uid for path in (made.parent, made, made / "mine")] == [FIRST] * 3


def test_volumes_are_root_s_own(remapping_engine: Engine) -> None:
    """With what the image has there, and for containers of both kinds alike."""
    engine, name = remapping_engine, f"v{secrets.token_hex(4)}"
    engine.docker_ok("create", "--name", "maker", "--userns", "host", "busybox", "sh", "-c", "chown 7:8 /home")
    engine.docker_ok("start", "-a", "maker")
    engine.docker_ok("commit", "-c", "VOLUME /home", "maker", "owned")
    try:
        script = "stat -c %u:%g /home; echo data > /home/file; chown 5:6 /home/file; stat -c %u:%g /home/file"
        mount = ("--network", "none", "-v", f"{name}:/home")
        assert run(engine, *mount, "owned", "sh", "-c", script).split() == ["7:8", "5:6"]
        assert run(engine, *mount, "--userns", "host", "owned", "stat", "-c", "%u:%g", "/home/file") == "5:6"
        fresh = run(engine, "--network", "none", "-v", "/new", "busybox", "sh", "-c", "touch /new/x; stat -c %u /new")
        assert fresh == "0"
        assert run(engine, "-u", "7", *mount, "owned", "sh", "-c", "touch /home/7 && echo made") == "made"
    finally:
        engine.docker_ok("volume", "rm", name)
        engine.docker_ok("rm", "maker")
        engine.docker_ok("rmi", "owned")


def test_an_image_and_layers_are_shared(remapping_engine: Engine) -> None:
    """On disk all ids are the container's: commit, diff and export need not know who made the files."""
    engine = remapping_engine
    script = "echo mine > /new; chown 5:6 /new; rm /etc/group"
    begin(engine, "remapped", script=f"{script}; {LOOP}")
    begin(engine, "plain", "--userns", "host")
    assert engine.docker_ok("exec", "plain", "stat", "-c", "%u", "/etc/group") == "0"
    assert (upper_of(engine, "remapped") / "new").stat().st_uid == 5
    assert {"A /new", "D /etc/group"} <= set(engine.docker_ok("diff", "remapped").splitlines())
    engine.docker_ok("commit", "remapped", "made")
    try:
        look = ("made", "sh", "-c", "stat -c %u:%g /new; cat /new; ls /etc/group 2>&1 | wc -l; ls /etc/group >&2")
        for options in ((), ("--userns", "host")):
            done = engine.docker("run", "--rm", "--network", "none", *options, *look)
            assert (done.stdout.split(), "No such file" in done.stderr) == (["5:6", "mine", "1"], True)
    finally:
        engine.docker_ok("rmi", "made")


def test_copies(remapping_engine: Engine, tmp_path: Path) -> None:
    """Into the root file system, a volume and a bind; of a container that runs and one that does not."""
    engine = remapping_engine
    bind = tmp_path / "bind"
    bind.mkdir()
    (tmp_path / "file").write_text("copied")
    os.chown(tmp_path / "file", 12, 13)
    begin(engine, "to", "-v", "/v", "-v", f"{bind}:/b")
    places = ("/root/one", "/v/one", "/b/one")
    for place in places:
        engine.docker_ok("cp", str(tmp_path / "file"), f"to:{place}")
    look = "stat -c '%u:%g' /root/one /v/one /b/one; cat /root/one; touch /root/one /v/one"
    assert engine.docker_ok("exec", "to", "sh", "-c", look).split() == ["12:13"] * 3 + ["copied"]
    assert (bind / "one").stat().st_uid == FIRST + 12
    assert (upper_of(engine, "to") / "root" / "one").stat().st_uid == 12
    engine.docker_ok("kill", "to")
    for place in ("/v/two", "/b/two"):
        engine.docker_ok("cp", str(tmp_path / "file"), f"to:{place}")
    assert (bind / "two").stat().st_uid == FIRST + 12
    engine.docker_ok("start", "to")
    assert engine.docker_ok("exec", "to", "stat", "-c", "%u:%g", "/v/two") == "12:13"
    engine.docker_ok("cp", "to:/v/two", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "copied"
    (tmp_path / "far").touch()
    os.chown(tmp_path / "far", COUNT, 0)
    refused = engine.docker("cp", "-a", str(tmp_path / "far"), "to:/root/")
    assert refused.returncode == 1 and f"Container ID {COUNT} cannot be mapped to a host ID" in refused.stderr


def test_namespaces_of_another_container(remapping_engine: Engine) -> None:
    """Whoever joins them joins the user namespace too, else it would have no rights there."""
    engine = remapping_engine
    begin(engine, "first", "--ipc", "shareable")
    users = engine.docker_ok("exec", "first", "readlink", "/proc/self/ns/user")
    script = "readlink /proc/self/ns/user; ip addr add 10.9.9.9/32 dev lo && echo added; echo told > /dev/stdout"
    joined = run(engine, "--network", "container:first", "--cap-add", "NET_ADMIN", "busybox", "sh", "-c", script)
    assert joined.split() == [users, "added", "told"]
    assert "10.9.9.9" in engine.docker_ok("exec", "first", "ip", "addr", "show", "lo")
    look = ("busybox", "readlink", "/proc/self/ns/user")
    for mode in ("--ipc", "--pid"):
        assert run(engine, "--network", "none", mode, "container:first", *look) == users
    assert run(engine, "--userns", "host", "--network", "container:first", *look) != users


def test_networks_and_health(remapping_engine: Engine) -> None:
    engine, network = remapping_engine, f"n{secrets.token_hex(4)}"
    engine.docker_ok("network", "create", network)
    try:
        serve = "mkdir /www; echo served > /www/index.html; echo armed; exec httpd -f -p 80 -h /www"
        check = ("--health-cmd", "wget -qO- http://localhost/ | grep served", "--health-interval", "200ms")
        begin(engine, "web", "--network", network, *check, script=serve)
        script = "wget -qO- http://web/; ping -c 1 web | grep -c '1 packets received'"
        assert run(engine, "--network", network, "busybox", "sh", "-c", script).split() == ["served", "1"]
        until(lambda: state(engine, "web", ".State.Health.Status") == "healthy")
    finally:
        engine.docker_ok("rm", "-f", "web")
        engine.docker_ok("network", "rm", network)


def test_terminals_and_execs(remapping_engine: Engine) -> None:
    engine = remapping_engine
    begin(engine, "box")
    script = "id -u; cat /proc/self/uid_map; echo told > /dev/stdout; touch /made"
    told = engine.docker_ok("exec", "-u", "1000", "box", "sh", "-c", script.replace("; touch /made", ""))
    assert told.split() == ["1000", *MAP.split(), "told"]
    assert engine.docker_ok("exec", "box", "sh", "-c", script).split()[-1] == "told"
    assert (upper_of(engine, "box") / "made").stat().st_uid == 0
    made = engine.api("POST", "/containers/box/exec", _terminal("sh", "-c", "tty; stat -c %u /dev/console $(tty)"))
    answer = engine.api("POST", f"/exec/{made.json['Id']}/start", {"Detach": False, "Tty": True})
    assert answer.body.decode().split()[0].startswith("/dev/pts/")
    privileged = engine.docker_ok("exec", "--privileged", "box", "grep", "CapEff", "/proc/self/status")
    assert int(privileged.split()[1], 16).bit_count() > 30


def _terminal(*words: str) -> dict[str, Any]:
    return {"Cmd": list(words), "Tty": True, "AttachStdout": True}


def test_a_container_keeps_its_ids(tmp_path: Path) -> None:
    """Whatever dies, and whatever the setting says by then."""
    config = remapping_config(tmp_path)
    with private_engine(BULKHEAD_CONFIG=str(config)) as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox")
        pid = begin(engine, "old", script=f"echo data > /file; chown 3 /file; {LOOP}")
        shim = _parent(pid)
        engine.kill()
        remapping_config(tmp_path, setting="")
        engine.start()
        assert (int(state(engine, "old", ".State.Pid")), owner(pid)) == (pid, (FIRST, FIRST))
        assert begin(engine, "new") and owner(int(state(engine, "new", ".State.Pid"))) == (0, 0)
        os.kill(shim, signal.SIGKILL)
        until(lambda: engine.docker("exec", "old", "stat", "-c", "%u", "/file").stdout.strip() == "3")
        engine.docker_ok("restart", "-t", "0", "old")
        again = int(state(engine, "old", ".State.Pid"))
        assert (owner(again), again != pid) == ((FIRST, FIRST), True)
        assert engine.docker_ok("exec", "old", "stat", "-c", "%u", "/file") == "3"
        assert "name=userns" not in engine.api("GET", "/info").json["SecurityOptions"]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
