"""The docker CLI's daily verbs."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time

import pytest

from tests.compat.conftest import Target
from tests.support.eventually import until
from tests.support.terminal import terminal

COUNT = "i=0; while [ $i -lt %d ]; do i=$((i+1)); echo $i; sleep %s; done"


def forever(target: Target, name: str, *options: str) -> str:
    """A container that ends quickly when it is told to; returns when it can be told."""
    script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    full = target.ok("run", "-d", "--name", name, *options, "busybox", "sh", "-c", script)
    with target.spawn("logs", "-f", name) as log:
        assert log.stdout is not None
        assert log.stdout.readline() == "ready\n"
        log.terminate()
    return full


# --- run


def test_run_keeps_streams_and_exit_status(target: Target) -> None:
    done = target.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_run_pipes_stdin(target: Target, size: int) -> None:
    assert target.ok("run", "--rm", "-i", "busybox", "wc", "-c", input=b"x" * size).split()[0] == str(size)


def test_run_without_i_ignores_stdin(target: Target) -> None:
    assert target.ok("run", "--rm", "busybox", "sh", "-c", "cat; echo end", input="lost") == "end"


def test_output_is_complete(target: Target) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done"
    assert target.ok("run", "--rm", "busybox", "sh", "-c", script).split() == [str(i) for i in range(1, 20001)]


def test_more_input_than_the_process_reads(target: Target) -> None:
    done = target.docker("run", "--rm", "-i", "busybox", "true", input=b"x" * (1 << 20))
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["busybox", "nosuchcommand"], 127, "executable file not found in $PATH"),
        (["--memory", "1k", "busybox", "true"], 125, "Minimum memory limit allowed is 6MB"),
        (["--restart", "always", "--rm", "busybox", "true"], 125, "restart"),
        (["--log-driver", "nosuch", "busybox", "true"], 125, "error looking up logging plugin nosuch"),
        (["-v", "/a:/b:foo", "busybox", "true"], 125, "invalid mode: foo"),
        (["--mount", "type=bind,src=/no/such,dst=/x", "busybox", "true"], 125, "bind source path does not exist"),
        (["--cap-add", "nosuch", "busybox", "true"], 125, 'unknown capability: "CAP_NOSUCH"'),
        (["-w", "rel", "busybox", "true"], 125, "it needs to be an absolute path"),
        (["--name", "-x", "busybox", "true"], 125, "Invalid container name"),
        (["--stop-signal", "FOO", "busybox", "true"], 125, "FOO"),
        (["busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137, ""),
    ],
)
def test_run_exit_status(target: Target, arguments: list[str], status: int, words: str) -> None:
    done = target.docker("run", *arguments)
    assert done.returncode == status
    assert words.lower() in done.stderr.lower()


def test_run_on_a_terminal(target: Target) -> None:
    script = "stty -echo; echo ready; until stty size | grep -q '40 100'; do sleep 0.05; done; echo resized; exit 3"
    command = ["docker", "run", "--rm", "-it", "busybox", "sh", "-c", script]
    with terminal(command, target.environ, rows=33, columns=77) as shown:
        shown.expect(b"ready\r\n")
        for _ in range(100):  # the CLI listens for the signal only some time after the start
            shown.resize(40, 100)
            with contextlib.suppress(AssertionError):
                shown.expect(b"resized\r\n", 0.2)
                break
        assert shown.ends() == 3


def test_detach_and_attach_again(target: Target) -> None:
    script = "while read x; do echo got $x; done; exit 4"
    command = ["docker", "run", "-it", "--name", "tt", "busybox", "sh", "-c", script]
    with terminal(command, target.environ) as shown:
        shown.send(b"one\r")
        shown.expect(b"got one")
        shown.send(b"\x10\x11")
        assert shown.ends() == 0
    assert target.ok("inspect", "-f", "{{.State.Running}}", "tt") == "true"
    with terminal(["docker", "attach", "tt"], target.environ) as shown:
        shown.send(b"two\r")
        shown.expect(b"got two")
        shown.send(b"\x04")
        assert shown.ends() == 4


def test_start_attached(target: Target) -> None:
    target.ok("create", "--name", "cc", "-i", "busybox", "sh", "-c", "cat; exit 5")
    for _ in range(2):
        done = target.docker("start", "-ai", "cc", input="typed")
        assert (done.returncode, done.stdout) == (5, "typed")


# --- look


def test_ps_and_its_options(target: Target) -> None:
    full = forever(target, "one", "--label", "a=1", "-e", "K=v")
    target.docker("run", "--name", "two", "--label", "a=2", "busybox", "false")
    assert target.ok("ps", "-q", "--no-trunc") == full
    assert target.ok("ps", "-a", "--format", "{{.Names}} {{.State}}").splitlines() == ["two exited", "one running"]
    assert target.ok("ps", "-a", "--filter", "label=a=2", "--format", "{{.Names}}") == "two"
    assert target.ok("ps", "-a", "--filter", "status=exited", "--filter", "name=tw", "--format", "{{.Names}}") == "two"
    assert target.ok("ps", "-l", "--format", "{{.Names}}") == "two"
    assert re.match(r"Up (Less than a|\d+) seconds?$", target.ok("ps", "--format", "{{.Status}}"))
    assert target.ok("ps", "-a", "--format", "{{.Status}}", "-f", "name=two").startswith("Exited (1) ")
    assert "invalid filter" in target.docker("ps", "--filter", "nosuch=1").stderr.lower()


def test_inspect(target: Target) -> None:
    full = forever(target, "web", "--label", "a=b", "-e", "K=v", "--tmpfs", "/t:size=1m", "-w", "/tmp", "-m", "64m")
    (shown,) = json.loads(target.ok("inspect", "web"))
    assert (shown["Id"], shown["Name"], shown["State"]["Status"]) == (full, "/web", "running")
    assert shown["Config"]["Labels"] == {"a": "b"} and "K=v" in shown["Config"]["Env"]
    assert (shown["Config"]["WorkingDir"], shown["HostConfig"]["Memory"]) == ("/tmp", 64 << 20)
    assert shown["HostConfig"]["Tmpfs"] == {"/t": "size=1m"} and shown["Mounts"] == []
    assert shown["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert shown["HostConfig"]["PortBindings"] == {} and shown["HostConfig"]["Binds"] is None
    assert shown["State"]["Pid"] > 0 and shown["State"]["FinishedAt"] == "0001-01-01T00:00:00Z"
    assert target.ok("inspect", "-f", "{{.Id}}", full[:6]) == full
    assert "No such object: nosuch" in target.docker("inspect", "nosuch").stderr


def test_logs(target: Target) -> None:
    target.ok("run", "-d", "-i", "--name", "ll", "busybox", "sh", "-c", "echo 1; echo 2 >&2; read x; echo 3")
    until(lambda: target.docker("logs", "ll").stderr == "2\n")  # of two pipes nobody knows which was written to first
    assert target.ok("attach", "ll", input="go\n") == "3"
    done = target.docker("logs", "ll")
    assert (done.stdout, done.stderr) == ("1\n3\n", "2\n")
    assert target.ok("logs", "--tail", "1", "ll") == "3"
    stamped = target.ok("logs", "-t", "--tail", "1", "ll")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z 3", stamped)
    assert target.ok("logs", "--since", "1h", "ll") == "1\n3"
    assert target.ok("logs", "--until", "1h", "ll") == ""
    moment = stamped.split()[0]
    assert target.ok("logs", "--since", moment, "ll").endswith("3")


def test_logs_follow_to_the_end(target: Target) -> None:
    target.ok("run", "-d", "--name", "ll", "busybox", "sh", "-c", COUNT % (30, "0.02"))
    assert target.ok("logs", "-f", "ll").split() == [str(i) for i in range(1, 31)]


def test_top(target: Target) -> None:
    forever(target, "tt")
    assert "trap" in target.ok("top", "tt")
    target.ok("stop", "tt")
    assert "is not running" in target.docker("top", "tt").stderr


def test_events_tell_the_life_of_a_container(target: Target) -> None:
    # From a moment on, and not from whenever the subscription is in place.
    watching = target.spawn(
        "events", "--since", str(time.time()), "--filter", "container=ee", "--format", "{{.Action}}"
    )
    target.ok("run", "--name", "ee", "busybox", "true")
    target.ok("rm", "ee")
    assert watching.stdout is not None
    seen = []
    while "destroy" not in seen:
        seen.append(watching.stdout.readline().strip())
    watching.send_signal(signal.SIGTERM)
    watching.communicate()
    assert [each for each in seen if each != "attach"] == ["create", "start", "die", "destroy"]


@pytest.mark.parametrize("since", [[], ["--since", "0"]])
def test_events_of_the_past_without_a_beginning(whole_target: Target, since: list[str]) -> None:
    whole_target.ok("run", "--name", "ee", "busybox", "true")
    until = f"{time.time():.9f}"
    whole_target.ok("rm", "ee")
    told = whole_target.ok("events", *since, "--until", until, "--filter", "container=ee", "--format", "{{.Action}}")
    assert [each for each in told.split() if each != "attach"][-3:] == ["create", "start", "die"]


def test_info_and_version(target: Target) -> None:
    assert json.loads(target.ok("info", "--format", "{{json .}}"))["OSType"] == "linux"
    assert target.ok("info") and target.ok("version")
    assert target.ok("version", "--format", "{{.Server.Os}}") == "linux"
    assert "Images" in target.ok("system", "df")


def test_the_three_networks(target: Target) -> None:
    names = set(target.ok("network", "ls", "--format", "{{.Name}}").split())
    assert {"host", "none"} <= names
    assert json.loads(target.ok("network", "inspect", "host"))[0]["Driver"] == "host"
    assert target.ok("volume", "ls", "-q") == ""


# --- change


def test_exec(target: Target) -> None:
    forever(target, "xx", "-e", "K=v")
    done = target.docker("exec", "xx", "sh", "-c", "echo $K; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "v\n", "err\n")
    assert target.ok("exec", "-i", "xx", "cat", input="typed") == "typed"
    assert target.ok("exec", "-e", "E=1", "xx", "sh", "-c", "echo $E") == "1"
    assert target.ok("exec", "-d", "xx", "true") == ""
    missing = target.docker("exec", "xx", "nosuchcommand")
    # 126 was a mistake of old Docker's: `run` always said 127.
    assert missing.returncode == (126 if target.kind == "dockerd" else 127)
    assert "executable file not found" in missing.stdout + missing.stderr
    with terminal(["docker", "exec", "-it", "xx", "sh", "-c", "tty; read x; exit 6"], target.environ) as shown:
        shown.expect(b"/dev/pts/")
        shown.send(b"\r")
        assert shown.ends() == 6


def test_exec_needs_a_running_container(target: Target) -> None:
    target.ok("create", "--name", "cc", "busybox", "true")
    done = target.docker("exec", "cc", "true")
    assert done.returncode == 1 and "is not running" in done.stderr


def test_stop_start_restart_kill_wait(target: Target) -> None:
    forever(target, "cc")
    target.ok("stop", "-t", "10", "cc")
    assert target.ok("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "cc") == "exited 0"
    target.ok("stop", "cc")
    target.ok("start", "cc")
    target.ok("start", "cc")
    target.ok("restart", "-t", "10", "cc")
    waiting = target.spawn("wait", "cc")
    assert target.ok("inspect", "-f", "{{.State.Running}}", "cc") == "true"
    target.ok("kill", "cc")
    assert waiting.communicate(timeout=30)[0] == "137\n"
    assert target.ok("wait", "cc") == "137"
    assert "is not running" in target.docker("kill", "cc").stderr
    assert "nvalid signal: FOO" in target.docker("kill", "-s", "FOO", "cc").stderr


def test_rename_and_remove(target: Target) -> None:
    forever(target, "aa")
    target.ok("create", "--name", "bb", "busybox", "true")
    target.ok("rename", "aa", "cc")
    assert target.docker("rename", "cc", "bb").returncode == 1
    refused = target.docker("rm", "cc")
    assert (refused.returncode == 1 and "is running" in refused.stderr.lower()) or "running container" in refused.stderr
    target.ok("rm", "-f", "cc")
    target.ok("rm", "bb")
    assert "No such container: bb" in target.docker("rm", "bb").stderr
    assert target.docker("rm", "-f", "nosuch").returncode in (0, 1)


def test_pause(target: Target) -> None:
    forever(target, "pp")
    target.ok("pause", "pp")
    assert target.ok("ps", "--format", "{{.Status}}").endswith("(Paused)")
    assert "paused" in target.docker("exec", "pp", "true").stderr
    target.ok("unpause", "pp")
    target.ok("kill", "pp")


@pytest.mark.parametrize(
    ("options", "order", "status"),
    [
        ([], ["stop", "-t", "60"], "exited 0"),
        (["--stop-signal", "USR1"], ["stop", "-t", "60"], "exited 7"),
        ([], ["kill", "-s", "USR1"], "exited 7"),
        (["--stop-signal", "TERM"], ["kill", "-s", "USR1"], "paused 0"),
        (["--stop-signal", "USR1"], ["kill", "-s", "USR1"], "exited 7"),
        ([], ["restart", "-t", "60"], "running 0"),
    ],
)
def test_who_is_paused_hears_that_he_shall_end(
    whole_target: Target, options: list[str], order: list[str], status: str
) -> None:
    """Frozen, a database would only be killed when its time is over, with what it had not written yet."""
    script = "trap 'exit 0' TERM; trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done"
    full = whole_target.ok("run", "-d", "--name", "cc", *options, "busybox", "sh", "-c", script)
    with whole_target.spawn("logs", "-f", "cc") as log:
        assert log.stdout is not None and log.stdout.readline() == "ready\n"
        log.terminate()
    whole_target.ok("pause", "cc")
    whole_target.ok(*order, "cc")
    if status.startswith("exited"):
        whole_target.ok("wait", "cc")
    assert whole_target.ok("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "cc") == status
    until = f"{time.time():.9f}"
    told = whole_target.ok("events", "--until", until, "--filter", f"container={full}", "--format", "{{.Action}}")
    assert ("unpause" in told.split()) == (status != "paused 0")


def test_name_conflict(target: Target) -> None:
    target.ok("create", "--name", "nn", "busybox", "true")
    refused = target.docker("create", "--name", "nn", "busybox", "true")
    assert 'Conflict. The container name "/nn" is already in use by container "' in refused.stderr


def test_prune(target: Target) -> None:
    full = target.ok("create", "busybox", "true")
    assert full in target.ok("container", "prune", "-f")
    target.ok("image", "prune", "-f")
    target.ok("system", "prune", "-f")


# --- images


def test_images(target: Target) -> None:
    assert "busybox" in target.ok("images", "--format", "{{.Repository}}").split()
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", target.ok("images", "-q", "--no-trunc", "busybox:latest").split()[0])
    target.ok("tag", "busybox", "some/name:1")
    assert target.ok("image", "inspect", "-f", "{{json .Config.Cmd}}", "some/name:1") == '["sh"]'
    assert "Untagged: some/name:1" in target.ok("rmi", "some/name:1")
    assert target.ok("history", "-q", "busybox")
    assert target.docker("tag", "nosuch", "xx").stderr.startswith("Error response from daemon: No such image: nosuch")
    assert "No such image: nosuch:latest" in target.docker("rmi", "nosuch").stderr


def test_save_and_load(target: Target) -> None:
    path = str(target.base / "saved.tar")
    target.ok("save", "-o", path, "busybox:latest")
    assert target.ok("load", "-i", path) == "Loaded image: busybox:latest"
    assert target.docker("load", input="rubbish").returncode == 1


def test_create_pulls_what_is_missing(target: Target) -> None:
    """The CLI pulls on exactly 404 and "No such image"."""
    done = target.docker("run", "--rm", "nosuchimage", "true")
    assert done.returncode == 125
    assert "Unable to find image 'nosuchimage:latest' locally" in done.stderr


# --- what needs a whole engine


def test_a_container_whose_image_lost_its_name_shows_its_id(whole_target: Target) -> None:
    whole_target.ok("tag", "busybox", "moving:1")
    whole_target.ok("create", "--name", "mm", "moving:1", "true")
    shown = ("ps", "-a", "--format", "{{.Image}}")
    assert whole_target.ok(*shown) == "moving:1"
    whole_target.ok("rmi", "moving:1")
    assert whole_target.ok("inspect", "-f", "{{.Image}}", "mm").startswith("sha256:" + whole_target.ok(*shown))


def test_prunes_are_told(whole_target: Target) -> None:
    since = str(time.time())
    whole_target.ok("container", "prune", "-f")
    whole_target.ok("network", "prune", "-f")
    whole_target.ok("volume", "prune", "-f")
    told = whole_target.ok("events", "--since", since, "--until", str(time.time() + 1), "--format", "{{.Type}}")
    assert told.split() == ["container", "network", "volume"]


def test_who_shares_a_network_has_its_names(whole_target: Target) -> None:
    forever(whole_target, "owner", "--domainname", "example.org")
    forever(whole_target, "guest", "--network", "container:owner")
    names = whole_target.ok("exec", "owner", "sh", "-c", "hostname; hostname -f; hostname -i")
    assert whole_target.ok("exec", "guest", "sh", "-c", "hostname; hostname -f; hostname -i") == names


def test_why_a_restart_failed(whole_target: Target) -> None:
    """Which container is the question: whoever restarts many is told one line of each."""
    owner = forever(whole_target, "owner")
    forever(whole_target, "guest", "--network", "container:owner")
    whole_target.ok("stop", "-t", "0", "owner")
    failed = whole_target.docker("restart", "-t", "0", "guest")
    reason = f"Cannot restart container guest: cannot join network of a non running container: {owner}"
    assert (failed.returncode, failed.stderr.strip()) == (1, f"Error response from daemon: {reason}")
    assert whole_target.ok("inspect", "-f", "{{.State.Status}}", "guest") == "exited"
