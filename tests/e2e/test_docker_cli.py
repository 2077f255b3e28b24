"""The docker CLI as people use it: output, exit status, pipes and terminals."""

from __future__ import annotations

import pytest

from tests.support.engine import Engine, docker_cli
from tests.support.eventually import until
from tests.support.terminal import terminal


def test_hello_world(engine: Engine) -> None:
    assert "Hello from Bulkhead!" in engine.docker_ok("run", "--rm", "hello-world")
    assert engine.docker_ok("ps", "-aq") == ""


def test_streams_stay_apart(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 0)


def test_stdin_reaches_the_container_and_ends(engine: Engine) -> None:
    """`cat | docker run -i` ends when its input ends."""
    text = "".join(f"line {number}\n" for number in range(20_000))
    assert engine.docker("run", "--rm", "-i", "busybox", "cat", input=text).stdout == text


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["busybox", "sh", "-c", "exit 7"], 7, ""),
        (["busybox", "/etc"], 126, "permission denied"),
        (["busybox", "no-such-command"], 127, "executable file not found"),
        (["busybox", "/no/such/file"], 127, "no such file or directory"),
        (["no-such-image-anywhere"], 125, "no-such-image-anywhere"),
        (["-v", "relative:/x:bad", "busybox"], 125, ""),
    ],
)
def test_exit_status(engine: Engine, arguments: list[str], status: int, words: str) -> None:
    """Scripts tell by it whether the engine, the command or the program failed."""
    done = engine.docker("run", "--rm", *arguments)
    assert done.returncode == status, done.stderr
    assert words in done.stderr


def test_a_name_is_taken_once(engine: Engine) -> None:
    engine.docker_ok("create", "--name", "one", "busybox")
    again = engine.docker("create", "--name", "one", "busybox")
    assert again.returncode == 1
    assert 'The container name "/one" is already in use' in again.stderr


def test_the_life_of_a_container(engine: Engine) -> None:
    identity = engine.docker_ok("run", "-d", "--name", "life", "busybox", "sh", "-c", "echo born; exec sleep 600")
    assert len(identity) == 64
    assert engine.docker_ok("ps", "-q", "--no-trunc") == identity
    assert engine.docker_ok("exec", "life", "echo", "inside") == "inside"
    assert "sleep 600" in engine.docker_ok("top", "life")
    engine.docker_ok("rename", "life", "afterlife")
    engine.docker_ok("stop", "-t", "0", identity[:6])
    assert engine.docker_ok("ps", "-a", "--format", "{{.Names}} {{.Status}}").startswith("afterlife Exited (137)")
    assert engine.docker_ok("logs", "afterlife") == "born"
    engine.docker_ok("rm", "afterlife")
    assert engine.docker_ok("ps", "-aq") == ""


def test_a_killed_container_says_137(engine: Engine) -> None:
    engine.docker_ok("run", "-d", "--name", "victim", "busybox", "sleep", "600")
    engine.docker_ok("kill", "victim")
    assert engine.docker_ok("wait", "victim") == "137"


def test_a_shell_on_a_terminal(engine: Engine) -> None:
    """-it: a real pty with the user's size, which follows the window; the shell's exit status comes back."""
    command = [docker_cli(), "run", "--rm", "-it", "busybox"]
    with terminal(command, engine.environ, rows=33, columns=99) as screen:
        screen.expect(b"# ")
        # The client tells the size after the start, so a program may see its terminal without one for a moment.
        screen.send(b"until [ \"$(stty size)\" = '33 99' ]; do :; done; echo sized $((1+1))\n")
        screen.expect(b"sized 2")
        screen.send(b"until [ \"$(stty size)\" = '40 120' ]; do :; done; echo grown $((1+1))\n")
        screen.resize_until(40, 120, b"grown 2")
        screen.send(b"exit 5\n")
        assert screen.ends() == 5


def test_detaching_leaves_the_container_running(engine: Engine) -> None:
    with terminal([docker_cli(), "run", "-it", "--name", "left", "busybox"], engine.environ) as screen:
        screen.expect(b"# ")
        screen.send(b"\x10\x11")
        assert screen.ends() == 0
    assert engine.docker_ok("inspect", "-f", "{{.State.Running}}", "left") == "true"


def test_an_exec_on_a_terminal(engine: Engine) -> None:
    engine.docker_ok("run", "-d", "--name", "host", "busybox", "sleep", "600")
    with terminal([docker_cli(), "exec", "-it", "host", "sh"], engine.environ, rows=31, columns=91) as screen:
        screen.expect(b"# ")
        screen.send(b"until [ \"$(stty size)\" = '31 91' ]; do :; done; echo sized $((1+1)); exit 3\n")
        screen.expect(b"sized 2")
        assert screen.ends() == 3


def test_images_come_and_go(engine: Engine) -> None:
    engine.pulled("hello-world")
    engine.docker_ok("tag", "hello-world", "mine:one")
    assert "mine:one" in engine.docker_ok("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
    archive = engine.base / "mine.tar"
    engine.docker_ok("save", "-o", str(archive), "mine:one")
    engine.docker_ok("rmi", "mine:one")
    assert engine.docker("inspect", "mine:one").returncode != 0
    assert "Loaded image: mine:one" in engine.docker_ok("load", "-i", str(archive))
    assert "Hello from Bulkhead!" in engine.docker_ok("run", "--rm", "mine:one")
    engine.docker_ok("rmi", "mine:one")


def test_push_and_pull_through_our_registry(engine: Engine) -> None:
    name = f"{engine.instance.registry}/team/tool:1"
    engine.docker_ok("tag", "busybox", name)
    engine.docker_ok("push", name)
    engine.docker_ok("rmi", name)
    assert engine.docker_ok("run", "--rm", name, "echo", "back") == "back"
    engine.docker_ok("rmi", name)


def test_fifty_containers_leave_nothing(engine: Engine) -> None:
    """The fixture's leak check is the test: mounts, cgroups, veths, nft elements, processes, files, fds."""
    for batch in range(10):
        names = [f"many-{batch}-{number}" for number in range(5)]
        for name in names:
            engine.docker_ok("run", "-d", "--name", name, "busybox", "sh", "-c", f"exit {batch}")
        assert engine.docker_ok("wait", *names).split() == [str(batch)] * 5
        engine.docker_ok("rm", *names)
    until(lambda: not list((engine.instance.run / "containers").iterdir()))
