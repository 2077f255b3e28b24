"""create, start, run, kill, delete: each by the command, judged by the kernel and by the next command."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

from bulkhead.linux import fdpass, pidfd
from tests.support.runtime_command import Runtime


def test_a_container_from_create_to_delete(runtime: Runtime, tmp_path: Path) -> None:
    told = tmp_path / "told"
    config = runtime.config("sh", "-c", "echo started > /told/it; exec sleep 1000")
    told.mkdir()
    config["mounts"].append({"destination": "/told", "type": "bind", "source": str(told), "options": ["bind"]})
    pid_file = tmp_path / "pid"
    created = runtime.create("box", config, "--pid-file", pid_file)
    assert created.status == 0, created.errors
    state = runtime.state("box")
    assert (state["status"], state["pid"]) == ("created", int(pid_file.read_text()))
    assert state["bundle"] == str(tmp_path / "box")
    assert not (told / "it").exists()

    assert runtime("start", "box").status == 0
    assert runtime.state("box")["status"] == "running"
    again = runtime("start", "box")
    assert (again.status, "cannot start an already running container" in again.errors) == (1, True)
    refused = runtime("delete", "box")
    assert "cannot delete container box that is not stopped: running" in refused.errors

    process = pidfd.open_pid(state["pid"])
    try:
        assert runtime("kill", "box", "KILL").status == 0
        wait_for_end(process)
    finally:
        os.close(process)
    assert runtime.state("box") | {"pid": 0} == runtime.state("box")
    assert runtime.state("box")["status"] == "stopped"
    assert "container not running" in runtime("kill", "box").errors
    assert "cannot start a container that has stopped" in runtime("start", "box").errors
    assert runtime("delete", "box").status == 0
    assert not runtime.group("box").exists()
    assert "container does not exist" in runtime("state", "box").errors
    assert runtime("delete", "box").status == 1
    assert runtime("delete", "--force", "box").status == 0


def wait_for_end(process: int) -> None:
    """Readable also when somebody else will reap it."""
    import select

    poller = select.poll()
    poller.register(process, select.POLLIN)
    assert poller.poll(20_000)


def test_run_gives_the_exit_status_and_leaves_nothing(runtime: Runtime) -> None:
    bundle = runtime.bundle("box", runtime.config("sh", "-c", "cat; echo done >&2; exit 7"))
    said = runtime("run", "--bundle", bundle, "box", stdin="hello")
    assert (said.status, said.output, said.errors) == (7, "hello", "done\n")
    assert not runtime.group("box").exists()
    assert json.loads(runtime("list", "--format", "json").output) is None


def test_run_relays_signals(runtime: Runtime) -> None:
    import subprocess

    bundle = runtime.bundle("box", runtime.config("sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 1; done"))
    command = [*runtime.command, "--root", str(runtime.root), "run", "--bundle", str(bundle), "box"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attended:
        assert attended.stdout is not None
        assert attended.stdout.readline() == "up\n"
        attended.send_signal(signal.SIGTERM)
        assert attended.wait(20) == 9


def test_a_failed_create_leaves_the_id_free(runtime: Runtime) -> None:
    said = runtime.create("box", runtime.config("/no/such/program"))
    assert said.status == 1
    assert "runc create failed: unable to start container process: exec:" in said.errors
    assert not runtime.group("box").exists()
    assert "container does not exist" in runtime("state", "box").errors
    assert runtime.create("box", runtime.config("sleep", "1000")).status == 0
    taken = runtime.create("box", runtime.config("sleep", "1000"))
    assert (taken.status, "container with id exists" in taken.errors) == (1, True)
    assert runtime.state("box")["status"] == "created"
    assert runtime("delete", "box").status == 0, "a created container needs no --force"


def test_pause_holds_and_kill_reaches_what_is_paused(runtime: Runtime) -> None:
    assert runtime.create("box", runtime.config("sleep", "1000")).status == 0
    assert runtime("start", "box").status == 0
    assert "container not paused" in runtime("resume", "box").errors
    assert runtime("pause", "box").status == 0
    assert runtime.state("box")["status"] == "paused"
    assert "container not running or created: paused" in runtime("pause", "box").errors
    assert "cannot exec in a paused container" in runtime("exec", "box", "true").errors
    assert runtime("resume", "box").status == 0
    assert runtime("pause", "box").status == 0
    assert runtime("delete", "--force", "box").status == 0


def test_a_pid_of_another_process_is_not_believed(runtime: Runtime) -> None:
    assert runtime.create("box", runtime.config("sleep", "1000")).status == 0
    runtime.group("box").kill_all()
    file = runtime.root / "box" / "state.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "pid": os.getpid()}))
    assert runtime.state("box")["status"] == "stopped"
    assert runtime("delete", "--force", "box").status == 0


def test_a_creation_that_was_killed_is_cleared_by_delete(runtime: Runtime) -> None:
    directory = runtime.root / "box"
    directory.mkdir(parents=True)
    assert "container does not exist" in runtime("state", "box").errors
    assert runtime("delete", "--force", "box").status == 0
    assert not directory.exists()


def test_ids_cannot_lead_out_of_the_root(runtime: Runtime) -> None:
    for verb in ("state", "delete", "kill", "start"):
        said = runtime(verb, "../box")
        assert (said.status, "invalid container ID format" in said.errors) == (1, True)


def test_exec_runs_beside_and_gives_its_status(runtime: Runtime, tmp_path: Path) -> None:
    assert runtime.create("box", runtime.config("sleep", "1000")).status == 0
    assert runtime("start", "box").status == 0
    said = runtime(
        "exec", "--env", "A=b c", "--cwd", "/tmp", "--user", "1000:50", "box", "sh", "-c", "echo $A; pwd; id -u; exit 5"
    )
    assert (said.status, said.output) == (5, "b c\n/tmp\n1000\n")
    missing = runtime("exec", "box", "/no/such")
    assert (missing.status, "exec failed: unable to start container process: exec:" in missing.errors) == (255, True)
    process = tmp_path / "process.json"
    process.write_text(json.dumps({"args": ["sleep", "1000"], "cwd": "/", "env": ["PATH=/bin"]}))
    pid_file = tmp_path / "pid"
    assert runtime.silently("exec", "--process", process, "--detach", "--pid-file", pid_file, "box").status == 0
    pids = json.loads(runtime("ps", "--format", "json", "box").output)
    assert int(pid_file.read_text()) in pids
    assert len(pids) == 2


def test_update_changes_the_limit_and_what_is_remembered(runtime: Runtime) -> None:
    assert runtime.create("box", runtime.config("sleep", "1000")).status == 0
    assert runtime("update", "--pids-limit", "17", "box").status == 0
    directory = runtime.group("box").directory("pids")
    assert directory is not None
    if not Path(directory, "pids.max").exists():
        return
    assert Path(directory, "pids.max").read_text() == "17\n"
    assert runtime("update", "--resources", "-", "box", stdin='{"pids": {"limit": 18}}').status == 0
    assert Path(directory, "pids.max").read_text() == "18\n"
    config = json.loads((runtime.root / "box" / "config.json").read_text())
    assert config["linux"]["resources"]["pids"]["limit"] == 18
    assert runtime("update", "--memory", "lots", "box").status == 1
    stats = json.loads(runtime("events", "--stats", "box").output)
    assert (stats["type"], stats["id"], stats["data"]["pids"]["limit"]) == ("stats", "box", 18)


def test_a_terminal_is_handed_to_the_console_socket(runtime: Runtime, tmp_path: Path) -> None:
    config = runtime.config(
        "sh", "-c", "tty; stty size; read line; exit 4", terminal=True, consoleSize={"height": 7, "width": 9}
    )
    assert (
        "cannot allocate tty if runc will detach without setting console socket" in runtime.create("box", config).errors
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen()
        assert runtime.create("box", config, "--console-socket", tmp_path / "console").status == 0
        peer, _ = listener.accept()
    with peer:
        _, (master,) = fdpass.receive(peer, 64, 1)
    process = pidfd.open_pid(runtime.state("box")["pid"])
    try:
        assert runtime("start", "box").status == 0
        with os.fdopen(master, "r+b", buffering=0) as terminal:
            assert terminal.readline() == b"/dev/pts/0\r\n"
            assert terminal.readline() == b"7 9\r\n"
            terminal.write(b"\n")
            wait_for_end(process)
    finally:
        os.close(process)


def test_a_start_that_is_killed_before_it_tidies_up(runtime: Runtime, tmp_path: Path) -> None:
    assert runtime.create("box", runtime.config("sleep", "1000")).status == 0
    fifo = tmp_path / "state" / "box" / "exec.fifo"
    assert runtime.state("box")["status"] == "created"
    with fifo.open("rb") as start:
        assert start.read(1)
        assert not start.read(), "closed on exec"
    assert fifo.exists()
    assert runtime.state("box")["status"] == "running"
    assert "cannot start an already running container" in runtime("start", "box").errors


def test_a_cgroup_that_two_share(runtime: Runtime) -> None:
    config = runtime.config("sleep", "1000")
    first = runtime.bundle("box", config)
    assert runtime.silently("run", "-d", "--bundle", first, "box").status == 0
    second = runtime.silently("run", "-d", "--bundle", first, "other")
    assert second.status == 0
    assert "container's cgroup is not empty" in second.errors
    assert runtime("delete", "--force", "box").status == 0
    assert runtime.state("other")["status"] == "running"
    assert runtime("delete", "--force", "other").status == 0
    assert not runtime.group("box").exists()


def test_the_debug_log_tells_how_far_a_launch_came(runtime: Runtime, tmp_path: Path) -> None:
    bundle, log = runtime.bundle("box", runtime.config("true")), tmp_path / "log"
    assert runtime("--debug", "--log", log, "run", "--bundle", bundle, "box").status == 0
    told = log.read_text()
    wanted = ("nsexec container setup", "child process in init()", "init: closing the pipe to signal completion")
    places = [told.index(text) for text in wanted]
    assert places == sorted(places)
    bundle = runtime.bundle("box", runtime.config("/no/such/program"))
    log.unlink()
    assert runtime("--debug", "--log", log, "run", "--bundle", bundle, "box").status == 1
    assert "error lookup /no/such/program" in log.read_text()


def test_a_device_rule_with_letters_that_mean_nothing(runtime: Runtime) -> None:
    config = runtime.config("head", "-c", "1", "/dev/kmsg")
    rule = {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "rwa"}
    config["linux"]["resources"]["devices"] = [{"allow": False, "access": "rwm"}, rule]
    config["linux"]["devices"] = [{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]
    said = runtime("run", "--bundle", runtime.bundle("box", config), "box")
    assert (said.status, "Operation not permitted" in said.errors) == (1, True), said.errors
