"""Containers by runc and crun beneath the same shim: nobody should notice but `docker inspect`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
from pathlib import Path

import pytest

from bulkhead.linux import process
from bulkhead.model.instance import SERVICES
from tests.support.engine import Engine, docker_cli
from tests.support.eventually import until
from tests.support.terminal import terminal

ANSWERS = "trap 'exit 9' TERM; echo armed; while :; do sleep 0.05; done"


@pytest.fixture(params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
    """A runtime of others; the test is skipped where it is not installed."""
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


def run(engine: Engine, runtime: str, *arguments: str) -> str:
    return engine.docker_ok("run", "--runtime", runtime, *arguments)


def begin(engine: Engine, runtime: str, name: str, *arguments: str) -> None:
    run(engine, runtime, "-d", "--name", name, *arguments, "busybox", "sh", "-c", ANSWERS)
    until(lambda: "armed" in engine.docker_ok("logs", name))


def test_streams_exit_status_and_mounts(engine: Engine, runtime: str) -> None:
    before = mounts(engine)
    done = engine.docker(
        "run", "--runtime", runtime, "--name", "first", "busybox", "sh", "-c", "echo o; echo e >&2; exit 7"
    )
    assert (done.stdout, done.stderr, done.returncode) == ("o\n", "e\n", 7)
    assert engine.docker_ok("logs", "first") == "o"
    assert engine.docker_ok("inspect", "-f", "{{.HostConfig.Runtime}} {{.State.ExitCode}}", "first") == f"{runtime} 7"
    # A second life of the same container, after what the first one left.
    assert engine.docker("start", "-a", "first").returncode == 7
    assert (
        engine.docker("run", "--rm", "--runtime", runtime, "-i", "busybox", "cat", input="through").stdout == "through"
    )
    assert mounts(engine) == before


def mounts(engine: Engine) -> list[str]:
    """The host's, below this engine's directories."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(engine.base) in line]


def test_the_user_comes_from_the_containers_own_files(engine: Engine, runtime: str) -> None:
    """Names, memberships, HOME and capabilities as Docker gives them; nothing of the host is asked."""
    told = run(engine, runtime, "--rm", "-u", "daemon", "--group-add", "users", "busybox", "sh", "-c", SHOW)
    own = engine.docker_ok("run", "--rm", "-u", "daemon", "--group-add", "users", "busybox", "sh", "-c", SHOW)
    assert told == own
    assert "CapEff:\t0000000000000000" in told
    refused = engine.docker("run", "--rm", "--runtime", runtime, "-u", "nobody-at-all", "busybox")
    assert refused.returncode != 0
    assert "unable to find user nobody-at-all: no matching entries in passwd file" in refused.stderr


SHOW = "id -u; id -g; id -G | tr ' ' '\\n' | sort -n; echo $HOME; grep -E 'Cap(Eff|Prm|Bnd|Amb)' /proc/self/status"


def test_what_cannot_be_run_leaves_nothing(engine: Engine, runtime: str) -> None:
    answer = engine.docker("run", "--rm", "--runtime", runtime, "busybox", "no-such-command")
    assert "OCI runtime create failed" in answer.stderr
    assert answer.returncode in (127, 125)  # crun's words are not the ones that docker looks for
    identity = engine.docker_ok("create", "--runtime", runtime, "busybox", "/etc")
    started = engine.api("POST", f"/containers/{identity}/start")
    assert (started.status, engine.docker_ok("inspect", "-f", "{{.State.ExitCode}}", identity)) == (400, "126")
    assert not (engine.instance.container_data(identity) / "runtime").exists()
    # Nor has the clearing up gone through the mounted root file system: a removed file would be a whiteout.
    upper = engine.instance.data / "snapshots" / "containers" / identity / "upper"
    assert [path for path in upper.rglob("*") if stat.S_ISCHR(path.lstat().st_mode)] == []


def test_a_terminal_and_an_exec_on_one(engine: Engine, runtime: str) -> None:
    command = [docker_cli(), "run", "--rm", "-it", "--runtime", runtime, "busybox"]
    with terminal(command, engine.environ, rows=33, columns=99) as screen:
        screen.expect(b"# ")
        screen.send(b"until [ \"$(stty size)\" = '33 99' ]; do :; done; echo sized $((1+1))\n")
        screen.expect(b"sized 2")
        screen.send(b"exit 5\n")
        assert screen.ends() == 5
    begin(engine, runtime, "host")
    with terminal([docker_cli(), "exec", "-it", "host", "sh"], engine.environ, rows=31, columns=91) as screen:
        screen.expect(b"# ")
        screen.send(b"until [ \"$(stty size)\" = '31 91' ]; do :; done; echo sized $((1+1)); exit 3\n")
        screen.expect(b"sized 2")
        assert screen.ends() == 3


def test_exec_pause_signals_and_stop(engine: Engine, runtime: str) -> None:
    begin(engine, runtime, "life", "-e", "COLOUR=red", "-u", "daemon")
    done = engine.docker("exec", "life", "sh", "-c", "id -un; echo $COLOUR; echo e >&2; exit 4")
    assert (done.stdout, done.stderr, done.returncode) == ("daemon\nred\n", "e\n", 4)
    assert engine.docker_ok("exec", "-u", "0:8", "-w", "/etc", "life", "sh", "-c", "id -u; id -g; pwd") == "0\n8\n/etc"
    assert engine.docker("exec", "-i", "life", "cat", input="in").stdout == "in"
    missing = engine.docker("exec", "life", "no-such-command")
    assert missing.returncode in (126, 127)
    assert "OCI runtime exec failed" in missing.stdout + missing.stderr
    assert "sleep 0.05" in engine.docker_ok("top", "life")
    engine.docker_ok("pause", "life")
    assert engine.docker_ok("inspect", "-f", "{{.State.Status}}", "life") == "paused"
    engine.docker_ok("unpause", "life")
    engine.docker_ok("restart", "-t", "5", "life")
    until(lambda: engine.docker_ok("logs", "life").count("armed") == 2)
    engine.docker_ok("stop", "-t", "5", "life")
    assert engine.docker_ok("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "life") == "exited 9"
    engine.docker_ok("start", "life")
    engine.docker_ok("pause", "life")
    engine.docker_ok("kill", "life")
    assert engine.docker_ok("wait", "life") == "137"


def test_limits_and_network(engine: Engine, runtime: str) -> None:
    begin(engine, runtime, "limited", "-m", "64m", "--pids-limit", "77", "-p", "127.0.0.1::80")
    pid = engine.docker_ok("inspect", "-f", "{{.State.Pid}}", "limited")
    groups = dict(re.findall(r"^\d+:([^:]*):(.*)$", Path(f"/proc/{pid}/cgroup").read_text(), re.MULTILINE))
    if groups.get("memory"):
        limit = Path(f"/sys/fs/cgroup/memory{groups['memory']}/memory.limit_in_bytes").read_text()
        assert int(limit) == 64 << 20
    address = engine.docker_ok("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "limited")
    assert f"inet {address}/" in engine.docker_ok("exec", "limited", "ip", "-4", "addr", "show", "eth0")
    engine.docker_ok("exec", "-d", "limited", "sh", "-c", "echo served | nc -l -p 80")
    port = engine.docker_ok("port", "limited", "80").rpartition(":")[2]
    served = run(engine, runtime, "--rm", "--network", "host", "busybox", "sh", "-c", KNOCK.format(port=port))
    assert served == "served"


KNOCK = "until nc 127.0.0.1 {port} </dev/null 2>/dev/null | grep . ; do sleep 0.1; done"


def test_volumes_and_a_read_only_root(engine: Engine, runtime: str) -> None:
    source = engine.base / f"shared-{runtime}"
    source.mkdir()
    (source / "file").write_text("theirs\n")
    script = (
        "cat /b/file; echo kept > /v/file; cat /v/file; touch /b/new 2>&1; touch /new 2>&1; touch /t/new && echo ok"
    )
    mounts = ["-v", f"{source}:/b:ro", "-v", f"vol-{runtime}:/v", "--tmpfs", "/t", "--read-only"]
    told = run(engine, runtime, "--rm", *mounts, "busybox", "sh", "-c", script)
    assert told.splitlines()[:2] == ["theirs", "kept"]
    assert told.count("Read-only file system") == 2
    assert told.endswith("ok")
    assert engine.docker_ok("run", "--rm", "-v", f"vol-{runtime}:/v", "busybox", "cat", "/v/file") == "kept"
    engine.docker_ok("volume", "rm", f"vol-{runtime}")


def test_what_is_below_a_volume(engine: Engine, runtime: str) -> None:
    name = f"sub-{runtime}"
    make = "mkdir -p /v/a/b && echo mine > /v/a/b/file && ln -s /a/b /v/link"
    engine.docker_ok("run", "--rm", "-v", f"{name}:/v", "busybox", "sh", "-c", make)
    mounts = [f"type=volume,src={name},dst=/{at},volume-subpath={sub}" for at, sub in (("d", "a"), ("l", "link/file"))]
    script = "cat /d/b/file /l; echo more > /d/new"
    told = run(engine, runtime, "--rm", "--mount", mounts[0], "--mount", mounts[1], "busybox", "sh", "-c", script)
    assert told.split() == ["mine", "mine"]
    assert engine.docker_ok("run", "--rm", "-v", f"{name}:/v", "busybox", "ls", "/v/a").split() == ["b", "new"]
    engine.docker_ok("volume", "rm", name)


def test_it_outlives_daemons_and_shim(engine: Engine, runtime: str) -> None:
    begin(engine, runtime, "lasting")
    begin(engine, runtime, "orphan")
    identity = engine.docker_ok("inspect", "-f", "{{.Id}}", "orphan")
    record = engine.instance.container_data(identity) / "shim.json"
    engine.kill(*SERVICES)
    engine.start(*SERVICES)
    engine.docker_ok("stop", "-t", "5", "lasting")
    assert engine.docker_ok("wait", "lasting") == "9"
    shim = int(re.findall(r'"pid":(\d+)', record.read_text())[0])
    os.kill(shim, signal.SIGKILL)
    until(lambda: process.start_time(shim) is None)
    assert engine.docker_ok("exec", "orphan", "echo", "still here") == "still here"
    engine.docker_ok("stop", "-t", "5", "orphan")
    assert engine.docker_ok("inspect", "-f", "{{.State.Status}}", "orphan") == "exited"


def test_an_unknown_runtime_is_refused(engine: Engine) -> None:
    answer = engine.api("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Runtime": "nowhere"}})
    assert (answer.status, answer.json["message"]) == (400, "Unknown runtime specified nowhere")


def test_info_lists_them(engine: Engine) -> None:
    told = engine.api("GET", "/info").json
    assert told["DefaultRuntime"] == "bulkhead"
    assert {"bulkhead", "runc", "io.containerd.runc.v2"} <= set(told["Runtimes"])
