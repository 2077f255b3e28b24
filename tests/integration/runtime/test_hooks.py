"""Hooks: each at its turn, in its namespaces, with the state on stdin; one that fails or dawdles ends the launch."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bulkhead.errors import LaunchFailed
from bulkhead.runtime.hooks import KINDS
from tests.support.containers import PATIENCE, Box, Config, namespace

NOTE = 'cat >> "$0"; echo " $1 $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/pid)" >> "$0"'


def noting(box: Box, log: Path, *kinds: str) -> Config:
    """A config whose hooks write their state, their name and where they are."""
    config = box.config("true")
    config["annotations"]["colour"] = "blue"
    config["mounts"].append(
        {"destination": str(log.parent), "type": "bind", "source": str(log.parent), "options": ["rbind"]}
    )
    config["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", NOTE, str(log), kind]}] for kind in kinds}
    return config


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    return tmp_path / "log" / "hooks"


def entries(log: Path) -> list[tuple[dict[str, Any], list[str]]]:
    """(state, [kind, mount namespace, pid namespace]) of each hook that ran."""
    decoder, found = json.JSONDecoder(), []
    for line in log.read_text().splitlines():
        state, end = decoder.raw_decode(line)
        found.append((state, line[end:].split()))
    return found


def test_every_hook_has_its_turn_its_place_and_the_state(box: Box, log: Path) -> None:
    config = noting(box, log, *KINDS)
    task = box.create(config, bundle="/the/bundle")
    inside = namespace(task.pid, "mnt")
    task.start()
    assert box.finish(task) == 0
    ran = entries(log)
    assert [words[0] for _, words in ran] == [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
    ]
    assert [state["status"] for state, _ in ran] == ["creating", "creating", "creating", "created", "running"]
    assert [state["pid"] for state, _ in ran] == [task.pid, task.pid, 1, 1, task.pid]
    here = namespace("self", "mnt")
    assert [words[1] for _, words in ran] == [here, here, inside, inside, here]
    for state, _ in ran:
        assert state["id"].startswith("box")
        assert (state["bundle"], state["annotations"]["colour"]) == ("/the/bundle", "blue")


def test_create_container_hooks_are_found_in_the_host_and_start_container_hooks_inside(box: Box, log: Path) -> None:
    config = noting(box, log)
    (box.image / "bin" / "inside").write_text(f"#!/bin/sh\necho inside $MINE >> {log}\n")
    (box.image / "bin" / "inside").chmod(0o755)
    outside = box.base / "outside"
    outside.write_text(f"#!/bin/sh\necho outside $MINE >> {log}\n")
    outside.chmod(0o755)
    config["process"]["env"].append("MINE=container")
    config["hooks"] = {
        "createContainer": [{"path": str(outside), "env": ["MINE=own"]}],
        "startContainer": [{"path": "/bin/inside"}],
    }
    assert box.run_config(config).code == 0
    assert log.read_text() == "outside own\ninside container\n"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "poststop"])
def test_a_failing_hook_ends_the_launch(box: Box, log: Path, kind: str) -> None:
    config = noting(box, log, "poststop")
    script = "echo trouble >&2; exit 3"
    config["hooks"][kind] = [{"path": "/bin/true"}, {"path": "/bin/sh", "args": ["sh", "-c", script]}]
    with pytest.raises(LaunchFailed) as caught:
        box.run_config(config)
    assert f"error running hook #1 ({kind}): exit status 3, output: trouble" in str(caught.value)
    assert caught.value.step == "hook"
    told = entries(log) if log.exists() else []
    before_start = kind in ("prestart", "createRuntime", "createContainer")
    assert [state["status"] for state, _ in told] == (["stopped"] if before_start else [])


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer"])
def test_a_hook_beyond_its_timeout_is_killed_with_its_children(box: Box, log: Path, kind: str) -> None:
    config = noting(box, log)
    marker = f"86{os.getpid()}"
    script = f"sleep {marker} & sleep {marker}"
    config["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1}]}
    with pytest.raises(LaunchFailed, match=rf"hook #0 \({kind}\): context deadline exceeded"):
        box.run_config(config)
    deadline = time.monotonic() + PATIENCE
    while running(marker):  # an orphan's end is announced to nobody
        assert time.monotonic() < deadline
        time.sleep(0.005)


def running(word: str) -> list[str]:
    """Processes with this word on their command line."""
    found = list[str]()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [path.parent.name] if word.encode() in path.read_bytes().split(b"\0") else []
    return found


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer"])
def test_a_hook_that_is_not_there(box: Box, kind: str) -> None:
    config = box.config("true")
    config["hooks"] = {kind: [{"path": "/no/such/hook"}]}
    with pytest.raises(LaunchFailed, match=rf"hook #0 \({kind}\): fork/exec /no/such/hook: no such file"):
        box.run_config(config)


def test_a_hook_that_ignores_a_large_state_and_talks_much(box: Box, log: Path) -> None:
    """Neither may block the launch."""
    config = noting(box, log)
    config["annotations"]["large"] = "x" * 300_000
    script = "head -c 300000 /dev/zero; exit 0"
    for kind in ("createRuntime", "createContainer"):
        config["hooks"] |= {kind: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    assert box.run_config(config).code == 0


def test_relative_paths_of_a_create_container_hook_mean_the_root(box: Box) -> None:
    config = box.config("cat", "/made")
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "echo here > ./made"]}
    config["hooks"] = {"createContainer": [hook]}
    assert box.run_config(config).output.strip() == "here"
