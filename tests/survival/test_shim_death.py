"""A shim is killed under its container: nothing that the container says is lost, and everything works again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine, docker_cli
from tests.support.eventually import until

pytestmark = [pytest.mark.root]
SECONDS = 30.0
LINES = 10_000
MOST_KILLS = 25
# In its middle it waits until it is told that the shim has died often enough.
FEWEST_KILLS = 2
TOLD = "until [ -e /told/go ]; do usleep 1000; done"
# Bursts, so that a kill meets the shim in the middle of its work as well as asleep.
BURST = "i={}; while [ $i -le {} ]; do echo $i; [ $((i % 25)) = 0 ] && usleep 1000; i=$((i+1)); done"
COUNT = f"{BURST.format(1, LINES // 2)}; {TOLD}; {BURST.format(LINES // 2 + 1, LINES)}; exit 7"
# The shim is never asleep.
FLOOD = f"seq 1 {30 * LINES}; {TOLD}; seq {30 * LINES + 1} {60 * LINES}; exit 7"
EXIT_7 = "trap 'exit 7' TERM; echo armed; while :; do sleep 0.05; done"


def inspect(engine: Engine, name: str, what: str) -> str:
    return engine.docker_ok("inspect", "-f", " ".join("{{" + each + "}}" for each in what.split()), name)


def losses(engine: Engine) -> list[dict[str, Any]]:
    found = json.loads(engine.docker_ok("inspect", "subject"))[0]["State"].get("Losses", [])
    return list(found)


def shim_of(engine: Engine, container_id: str) -> int:
    """The pid in the record of who holds the container, 0 when there is none."""
    try:
        record = json.loads((engine.instance.container_data(container_id) / "shim.json").read_bytes())
    except FileNotFoundError:
        return 0
    pid: int = record["pid"]
    return pid


def lives(pid: int) -> bool:
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill_shim(engine: Engine, container_id: str) -> None:
    """SIGKILL, without waiting for a successor."""
    until(lambda: shim_of(engine, container_id) != 0)
    pid = shim_of(engine, container_id)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not lives(pid))


def replaced(engine: Engine, container_id: str) -> None:
    """Kill the shim and wait until another holds the container."""
    before = shim_of(engine, container_id)
    kill_shim(engine, container_id)
    until(lambda: shim_of(engine, container_id) not in (0, before))


def numbers(engine: Engine, name: str) -> list[int]:
    return [int(line) for line in engine.docker_ok("logs", name).split()]


@pytest.mark.parametrize(
    ("script", "lines", "options"),
    [
        (COUNT, LINES, ()),
        (COUNT, LINES, ("--log-driver", "local", "--log-opt", "max-size=100k", "--log-opt", "max-file=20")),
        (COUNT, LINES, ("-t",)),
        (FLOOD, 60 * LINES, ()),
    ],
    ids=["bursts", "local", "terminal", "flood"],
)
def test_no_line_is_missing_and_the_exit_code_is_true(
    fresh_engine: Engine, tmp_path: Path, script: str, lines: int, options: tuple[str, ...]
) -> None:
    told = ("-v", f"{tmp_path}:/told")
    container = fresh_engine.docker_ok("run", "-d", *options, *told, "--name", "subject", "busybox", "sh", "-c", script)
    kills = 0
    # Asked once: 0, of a shim that has not told who it is, would be everybody of our own group.
    while inspect(fresh_engine, "subject", ".State.Running") == "true" and (before := shim_of(fresh_engine, container)):
        if kills == MOST_KILLS:
            break
        try:
            os.kill(before, signal.SIGKILL)
        except ProcessLookupError:
            break
        kills += 1
        until(lambda: shim_of(fresh_engine, container) != before)
        if kills == FEWEST_KILLS:
            (tmp_path / "go").touch()
    (tmp_path / "go").touch()
    assert fresh_engine.docker_ok("wait", "subject") == "7"
    assert kills >= FEWEST_KILLS
    found = numbers(fresh_engine, "subject")
    assert sorted(set(range(1, lines + 1)) - set(found)) == []
    assert found == list(range(1, lines + 1))


def test_exec_and_attach_work_again(fresh_engine: Engine) -> None:
    asking = "read line; echo got $line; exit 3"
    container = fresh_engine.docker_ok("run", "-d", "-i", "--name", "subject", "busybox", "sh", "-c", asking)
    replaced(fresh_engine, container)
    assert fresh_engine.docker_ok("exec", "subject", "echo", "hello") == "hello"
    # Its stdin was kept open: it still waits for its line.
    attached = fresh_engine.docker("attach", "subject", input="typed\n")
    assert (attached.returncode, attached.stdout) == (3, "got typed\n")
    assert fresh_engine.docker_ok("logs", "subject") == "got typed"


def are_kept(engine: Engine, container_id: str, count: int) -> bool:
    """Whether the supervisor holds the pidfds of so many execs of the container: the youngest are not worth it yet."""
    execs = engine.api("GET", f"/containers/{container_id}/json").json["ExecIDs"] or []
    wanted = {engine.api("GET", f"/exec/{each}/json").json["Pid"] for each in execs}
    held = set()
    for info in Path(f"/proc/{engine.pid('supervisor')}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            held |= {int(line.split()[1]) for line in info.read_text().splitlines() if line.startswith("Pid:")}
    return len(wanted) == count and wanted <= held


def test_an_exec_goes_on_and_its_code_is_true(fresh_engine: Engine) -> None:
    """Attached by pipes, by a terminal, and detached; more output than pipes hold comes after the shim's death."""
    container = fresh_engine.docker_ok("run", "-d", "--name", "subject", "busybox", "sleep", "1000")
    work = "echo begun; touch /{0}; while [ ! -e /go ]; do sleep 0.05; done; seq 1 500000; touch /{0}-done; exit {1}"
    command = [docker_cli(), "exec", "subject", "sh", "-c", work.format("attached", 5)]
    created = fresh_engine.api("POST", f"/containers/{container}/exec", {"Cmd": ["sh", "-c", work.format("free", 6)]})
    exec_id = created.json["Id"]
    assert fresh_engine.api("POST", f"/exec/{exec_id}/start", {"Detach": True}).status == 200
    with subprocess.Popen(command, env=fresh_engine.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        until(lambda: fresh_engine.docker("exec", "subject", "ls", "/attached", "/free").returncode == 0)
        until(lambda: are_kept(fresh_engine, container, 2))
        replaced(fresh_engine, container)
        fresh_engine.docker_ok("exec", "subject", "touch", "/go")
        output, errors = client.communicate(timeout=SECONDS)
    assert (client.returncode, output, errors) == (5, b"begun\n", b"")
    fresh_engine.docker_ok("exec", "subject", "ls", "/attached-done", "/free-done")
    until(lambda: fresh_engine.api("GET", f"/exec/{exec_id}/json").json["Running"] is False)
    assert fresh_engine.api("GET", f"/exec/{exec_id}/json").json["ExitCode"] == 6
    assert losses(fresh_engine) == []


def zygote_of(engine: Engine) -> int:
    supervisor = engine.pid("supervisor")
    pids = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return int(pids[0]) if pids else 0


def keeps_a_terminal(engine: Engine) -> bool:
    """Whether the supervisor has a duplicate of some console."""
    held = Path(f"/proc/{engine.pid('supervisor')}/fd").iterdir()
    with contextlib.suppress(FileNotFoundError):
        return any("ptmx" in os.readlink(link) for link in held)  # noqa: PTH115
    return False


@pytest.mark.parametrize("lost", ["nobody", "zygote", "supervisor"])
def test_a_terminal_goes_on(fresh_engine: Engine, lost: str) -> None:
    """What is kept for a shim outlives the zygote that has made it, and is told again to the next supervisor."""
    container = fresh_engine.docker_ok("run", "-dt", "--name", "subject", "busybox", "sh", "-c", EXIT_7)
    until(lambda: "armed" in fresh_engine.docker_ok("logs", "subject"))
    if lost == "zygote":
        before = zygote_of(fresh_engine)
        os.kill(before, signal.SIGKILL)
        until(lambda: zygote_of(fresh_engine) not in (0, before))
    elif lost == "supervisor":
        fresh_engine.kill("supervisor")
        fresh_engine.start("supervisor")
    until(lambda: keeps_a_terminal(fresh_engine))
    replaced(fresh_engine, container)
    fresh_engine.docker_ok("exec", "subject", "sh", "-c", "echo again > /proc/1/fd/1")
    until(lambda: "again" in fresh_engine.docker_ok("logs", "subject"))
    fresh_engine.docker_ok("stop", "subject")
    assert inspect(fresh_engine, "subject", ".State.ExitCode") == "7"


def test_what_has_ended_is_kept_no_longer(fresh_engine: Engine) -> None:
    """Not even when nobody has its shim leave."""
    fresh_engine.docker_ok("run", "-dt", "--name", "subject", "busybox", "sh", "-c", EXIT_7)
    until(lambda: "armed" in fresh_engine.docker_ok("logs", "subject"))
    pid = int(inspect(fresh_engine, "subject", ".State.Pid"))
    until(lambda: keeps_a_terminal(fresh_engine))
    fresh_engine.kill("manager")
    os.kill(pid, signal.SIGTERM)
    until(lambda: not keeps_a_terminal(fresh_engine))
    fresh_engine.start("manager")
    assert fresh_engine.docker_ok("wait", "subject") == "7"


def test_an_end_that_no_shim_saw_has_its_code(fresh_engine: Engine) -> None:
    """The container ends while its shim is dead and the manager away; only the supervisor is left."""
    container = fresh_engine.docker_ok("run", "-d", "--name", "subject", "busybox", "sh", "-c", EXIT_7)
    until(lambda: "armed" in fresh_engine.docker_ok("logs", "subject"))
    pid = int(inspect(fresh_engine, "subject", ".State.Pid"))
    fresh_engine.kill("manager")
    kill_shim(fresh_engine, container)
    os.kill(pid, signal.SIGTERM)
    until(lambda: not lives(pid))
    fresh_engine.start("manager")
    assert fresh_engine.docker_ok("wait", "subject") == "7"
    assert losses(fresh_engine) == []


def test_the_oom_killer_is_seen_without_a_shim(fresh_engine: Engine) -> None:
    greedy = "trap 'exec tail /dev/zero' TERM; echo armed; while :; do sleep 0.05; done"
    container = fresh_engine.docker_ok("run", "-d", "-m", "16m", "--name", "subject", "busybox", "sh", "-c", greedy)
    until(lambda: "armed" in fresh_engine.docker_ok("logs", "subject"))
    pid = int(inspect(fresh_engine, "subject", ".State.Pid"))
    fresh_engine.kill("manager")
    kill_shim(fresh_engine, container)
    os.kill(pid, signal.SIGTERM)
    until(lambda: not lives(pid))
    fresh_engine.start("manager")
    assert fresh_engine.docker_ok("wait", "subject") == "137"
    assert inspect(fresh_engine, "subject", ".State.OOMKilled") == "true"


def test_with_the_supervisor_dead_too_it_runs_and_can_be_stopped(fresh_engine: Engine) -> None:
    """Its output waits in the pipe, which the process itself keeps. What may be lost is stated."""
    container = fresh_engine.docker_ok(
        "run", "-d", "-i", "--name", "subject", "busybox", "sh", "-c", f"echo up; {EXIT_7}"
    )
    until(lambda: "armed" in fresh_engine.docker_ok("logs", "subject"))
    pid = int(inspect(fresh_engine, "subject", ".State.Pid"))
    fresh_engine.kill()
    kill_shim(fresh_engine, container)
    assert lives(pid)
    fresh_engine.start()
    until(lambda: lives(shim_of(fresh_engine, container)))
    fresh_engine.docker_ok("exec", "subject", "sh", "-c", "echo again > /proc/1/fd/1")
    until(lambda: fresh_engine.docker_ok("logs", "subject") == "up\narmed\nagain")
    until(lambda: len(losses(fresh_engine)) == 2)
    stated = losses(fresh_engine)
    assert [each["What"] for each in stated] == ["log", "stdin"]
    assert stated[0]["Since"] < stated[0]["Until"]
    events = fresh_engine.docker_ok(
        "events", "--since", "1", "--until", str(int(time.time()) + 1), "--filter", "event=loss"
    )
    assert [event.partition("what=")[2][:3] for event in events.splitlines()] == ["log", "std"]
    fresh_engine.docker_ok("stop", "subject")
    assert inspect(fresh_engine, "subject", ".State.ExitCode") == "7"


def test_a_terminal_that_is_lost_with_the_supervisor_is_stated(fresh_engine: Engine) -> None:
    stubborn = "trap '' HUP; echo armed; while :; do sleep 0.05; done"
    container = fresh_engine.docker_ok("run", "-dt", "--name", "subject", "busybox", "sh", "-c", stubborn)
    until(lambda: "armed" in fresh_engine.docker_ok("logs", "subject"))
    pid = int(inspect(fresh_engine, "subject", ".State.Pid"))
    fresh_engine.kill("supervisor")
    kill_shim(fresh_engine, container)
    fresh_engine.start("supervisor")
    until(lambda: lives(shim_of(fresh_engine, container)))
    until(lambda: len(losses(fresh_engine)) == 2)
    assert [each["What"] for each in losses(fresh_engine)] == ["log", "terminal"]
    assert lives(pid)
    fresh_engine.docker_ok("stop", "-t", "0", "subject")
    # The init that reaped it tells nobody but its pidfd, which the new shim has.
    assert inspect(fresh_engine, "subject", ".State.ExitCode") == "137"


def test_names_health_and_the_restart_policy_go_on(fresh_engine: Engine) -> None:
    network = f"net-{os.getpid()}"
    fresh_engine.docker_ok("network", "create", network)
    health = ("--health-cmd", "test -e /well", "--health-interval", "200ms", "--health-retries", "1")
    options = ("--network", network, "--restart", "always", *health)
    container = fresh_engine.docker_ok("run", "-d", *options, "--name", "subject", "busybox", "sh", "-c", EXIT_7)
    until(lambda: inspect(fresh_engine, "subject", ".State.Health.Status") == "unhealthy")
    replaced(fresh_engine, container)
    fresh_engine.docker_ok("exec", "subject", "touch", "/well")
    until(lambda: inspect(fresh_engine, "subject", ".State.Health.Status") == "healthy")
    assert "127.0.0.11" in fresh_engine.docker_ok("exec", "subject", "nslookup", "subject")
    os.kill(int(inspect(fresh_engine, "subject", ".State.Pid")), signal.SIGTERM)
    until(lambda: inspect(fresh_engine, "subject", ".RestartCount .State.Status") == "1 running")
    assert losses(fresh_engine) == []
    fresh_engine.docker_ok("rm", "-f", "subject")
    fresh_engine.docker_ok("network", "rm", network)
