"""Places that somebody swaps while a container is being made there (cve-battery C06, C07)."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bulkhead.errors import LaunchFailed
from tests.security.runtime.test_escape import SWAP, canary
from tests.support.containers import Box, Config, read_terminal

__all__ = ["canary"]

ROUNDS = 150
PORT_START = "net.ipv4.ip_unprivileged_port_start"
SHOW = f"cat /proc/sys/{PORT_START.replace('.', '/')} /proc/self/oom_score_adj"


@contextlib.contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """All the while two names change places."""
    with subprocess.Popen([sys.executable, "-c", SWAP, one, other], stdout=subprocess.PIPE) as swapper:
        try:
            assert swapper.stdout is not None
            swapper.stdout.readline()
            yield
        finally:
            swapper.kill()


# ---- C06: the console (CVE-2025-52565) ----


def on_terminal(box: Box, edit: Callable[[Config], None], *args: str) -> str:
    """What a container says on its terminal."""
    config = box.config(*args, terminal=True)
    edit(config)
    task = box.create(config)
    assert task.console is not None
    task.start()
    text = read_terminal(task.console, task.pidfd)
    box.finish(task)
    return text


def shared_dev(volume: Path) -> Callable[[Config], None]:
    """/dev is a volume that others have too: the console is made and bound in there."""

    def edit(config: Config) -> None:
        for each in config["mounts"]:
            if each["destination"] == "/dev":
                each.update(type="bind", source=str(volume), options=["rbind"])

    return edit


CONSOLE = r"grep ' /dev/console ' /proc/self/mountinfo; stat -f -c %t /proc/self/fd/0"


def test_a_terminal_is_the_containers_own(box: Box, canary: Path, tmp_path: Path) -> None:
    """/dev/pts changes places with a link to a directory of the host that has a ptmx and a terminal of its own."""
    volume = tmp_path / "dev"
    for name in ("pts", "shm", "mqueue"):
        (volume / name).mkdir(parents=True)
    (volume / "swap").symlink_to("../../../../../../../../../.." + str(canary))
    outcomes = dict[str, int]()
    with swapping(volume / "pts", volume / "swap"):
        for _ in range(ROUNDS):
            try:
                text = on_terminal(box, shared_dev(volume), "sh", "-c", CONSOLE)
                outcome = " ".join(re.findall(r" - (\S+)|^(1cd1)", text, re.MULTILINE)[0])
            except LaunchFailed as error:
                outcome = f"{error.step} {errno.errorcode[error.errno]}"
            outcomes[outcome.strip()] = outcomes.get(outcome.strip(), 0) + 1
    # Whatever was started has the devpts that was mounted for it; the canary fixture knows of the rest.
    assert "devpts" in outcomes
    assert not [each for each in outcomes if " " not in each and each not in ("devpts", "1cd1")], outcomes


def test_without_a_swap_the_terminal_is_there(box: Box) -> None:
    """The control: the same look finds the console's file system."""
    assert " - devpts " in on_terminal(box, lambda _: None, "sh", "-c", CONSOLE)


# ---- C07: settings that are written elsewhere (CVE-2025-52881) ----


def with_settings(config: Config) -> None:
    config["process"]["oomScoreAdj"] = 321
    config["linux"]["sysctl"] = {PORT_START: "77"}


def test_settings_reach_what_they_are_for(box: Box, canary: Path, tmp_path: Path) -> None:
    """A sibling makes a mount's target now a directory of a volume, now a link to /proc/sys and to the process itself.

    What runs has its settings, nothing of the host has them, and what cannot be mounted safely does not start.
    """
    volume = tmp_path / "volume"
    (volume / "d" / "net").mkdir(parents=True)
    (volume / "d" / "self").mkdir()
    (volume / "swap").symlink_to("/proc/sys")
    host = Path(f"/proc/sys/{PORT_START.replace('.', '/')}").read_text()

    def edit(config: Config) -> None:
        with_settings(config)
        config["mounts"] += [
            {"destination": "/v", "type": "bind", "source": str(volume), "options": ["rbind"]},
            {"destination": "/v/d/net", "type": "tmpfs", "source": "tmpfs", "options": []},
            {"destination": "/v/d/kernel", "type": "tmpfs", "source": "tmpfs", "options": []},
        ]

    outcomes = dict[str, int]()
    with swapping(volume / "d", volume / "swap"):
        for _ in range(ROUNDS):
            try:
                done = box.run("sh", "-c", SHOW, edit=edit)
                outcome = f"ran {done.code} {done.output.split()}"
            except LaunchFailed as error:
                outcome = f"{error.step} {errno.errorcode[error.errno]}"
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            assert Path(f"/proc/sys/{PORT_START.replace('.', '/')}").read_text() == host
            assert Path("/proc/self/oom_score_adj").read_text().strip() != "321"
    assert {each for each in outcomes if each.startswith("ran")} <= {"ran 0 ['77', '321']"}, outcomes
    assert not [each for each in outcomes if each.startswith(("sysctl", "oom"))], outcomes
    assert "mount EPERM" in outcomes, "nobody met the link: the swap did not happen"


def test_without_settings_others_are_read(box: Box) -> None:
    """The control: what was read above are the settings, and not what every container has."""
    assert box.run("sh", "-c", SHOW).output.split() == ["0", "0"]


@pytest.mark.parametrize("target", ["/proc/self/attr", "/proc/sys/net", "/proc/thread-self", "/proc/1"])
def test_nothing_is_mounted_over_what_will_be_written(box: Box, target: str) -> None:
    """By a link of the image, too: the target of a mount is looked for inside, and a procfs is refused there."""
    (box.image / "way").symlink_to(target)

    def edit(config: Config) -> None:
        with_settings(config)
        config["mounts"].append({"destination": "/way", "type": "tmpfs", "source": "tmpfs", "options": []})

    with pytest.raises(LaunchFailed) as refused:
        box.run("true", edit=edit)
    assert refused.value.step == "mount"
    assert os.strerror(refused.value.errno)
