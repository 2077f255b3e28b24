"""A terminal belongs to the container: its devpts, its console, its session."""

from __future__ import annotations

import os

from bulkhead.linux import pty
from tests.support.containers import Box, read_terminal


def test_the_console_is_the_containers_own(box: Box) -> None:
    script = "tty; stty size; stat -c %F,%t /dev/console; readlink /proc/self/fd/2; stat -f -c %t /dev/console"
    task = box.create(box.config("sh", "-c", script, terminal=True, consoleSize={"height": 20, "width": 70}))
    task.start()
    assert task.console is not None
    assert read_terminal(task.console, task.pidfd).splitlines() == [
        "/dev/pts/0",
        "20 70",
        "character special file,88",
        "/dev/pts/0",
        "1cd1",
    ]
    assert box.finish(task) == 0


def test_it_controls_the_session(box: Box) -> None:
    """Ctrl-C reaches the foreground process: the terminal is the controlling one."""
    task = box.create(
        box.config("sh", "-c", "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 1; done", terminal=True)
    )
    task.start()
    assert task.console is not None
    text = b""
    while b"ready" not in text:
        text += os.read(task.console, 100)
    os.write(task.console, b"\x03")
    assert "caught" in read_terminal(task.console, task.pidfd)
    assert box.finish(task) == 5


def test_resizing(box: Box) -> None:
    task = box.create(box.config("cat", terminal=True))
    task.start()
    assert task.console is not None
    pty.set_size(task.console, 40, 120)
    assert pty.size(task.console) == (40, 120)
    box.kill(task)


def test_another_user_owns_his_terminal(box: Box) -> None:
    config = box.config("sh", "-c", "stat -c %u:%g /dev/pts/0; echo x > /dev/stdout", terminal=True)
    config["annotations"] = {"org.bulkhead.user": "bob"}
    task = box.create(config)
    task.start()
    assert task.console is not None
    assert read_terminal(task.console, task.pidfd).split() == ["1000:5", "x"]
    assert box.finish(task) == 0


def test_another_user_can_open_his_pipes(box: Box) -> None:
    def edit(config: dict[str, object]) -> None:
        config["annotations"] = {"org.bulkhead.user": "bob"}

    assert box.run("sh", "-c", "echo x > /dev/stdout", edit=edit).output == "x\n"


def test_without_a_terminal_there_is_no_console(box: Box) -> None:
    assert box.run("test", "-e", "/dev/console").code == 1
