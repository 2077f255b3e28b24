"""An ordinary user with a user namespace of one id."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import bulkhead
from tests.support.containers import BUSYBOX, make_image

USER = 1  # newuidmap serves only those whom the host knows: "daemon" everywhere
# The suite's own interpreter may be below /root.
PYTHON = Path("/usr/bin/python3")
SERVICES = Path(bulkhead.__file__).parent.parent
START = f"import sys; sys.path.insert(0, {str(SERVICES)!r}); from bulkhead.runtime.command.entry import main; main()"


@pytest.fixture
def home() -> Iterator[Path]:
    if os.geteuid() != 0 or not BUSYBOX.exists() or not PYTHON.exists():
        pytest.skip("needs root to become a user, busybox and the system's Python")
    place = Path(f"/tmp/bh-rl-{secrets.token_hex(3)}")
    make_image(place / "rootfs")
    for path in (place, *place.rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)
    yield place
    shutil.rmtree(place)


def command(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PYTHON), "-IS", "-c", START, *words],
        cwd=home,
        env={"XDG_RUNTIME_DIR": str(home / "run"), "PATH": os.environ["PATH"]},
        user=USER,
        group=USER,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def configured(home: Path, *args: str) -> None:
    file = home / "config.json"
    config = json.loads(file.read_text())
    config["process"] |= {"terminal": False, "args": list(args)}
    file.write_text(json.dumps(config))


def test_run_as_an_ordinary_user(home: Path) -> None:
    probe = command(home, "--version")
    if "PermissionError" in probe.stderr or "ModuleNotFoundError" in probe.stderr:
        pytest.skip("the source is not readable for ordinary users here")
    assert command(home, "spec", "--rootless").returncode == 0
    configured(home, "sh", "-c", "id -u; cat /proc/self/uid_map; exit 6")
    said = command(home, "run", "box")
    assert (said.returncode, said.stderr) == (6, "")
    assert said.stdout.split() == ["0", "0", str(USER), "1"]
    assert (home / "run" / "bulkhead-runtime").exists()
    assert command(home, "list", "-q").stdout == ""


@pytest.fixture
def many_ids() -> Iterator[tuple[int, int]]:
    """A range of host ids that belongs to the user, for as long as the test runs: (first, count)."""
    if os.geteuid() != 0 or not (shutil.which("newuidmap") and shutil.which("newgidmap")):
        pytest.skip("needs root, and the package uidmap")
    first, count = 900_000, 1000
    line = f"{USER}:{first}:{count}\n"
    files = (Path("/etc/subuid"), Path("/etc/subgid"))
    for file in files:
        with file.open("a") as out:
            out.write(line)
    yield first, count
    for file in files:
        file.write_text(file.read_text().replace(line, ""))


def test_run_as_an_ordinary_user_with_many_ids(home: Path, many_ids: tuple[int, int]) -> None:
    probe = command(home, "spec", "--rootless")
    if "PermissionError" in probe.stderr or "ModuleNotFoundError" in probe.stderr:
        pytest.skip("the source is not readable for ordinary users here")
    first, count = many_ids
    file = home / "config.json"
    config = json.loads(file.read_text())
    maps = [
        {"containerID": 0, "hostID": USER, "size": 1},
        {"containerID": 1, "hostID": first, "size": count},
    ]
    config["linux"] |= {"uidMappings": maps, "gidMappings": maps}
    config["process"]["user"] = {"uid": 7, "gid": 8, "additionalGids": [9]}
    file.write_text(json.dumps(config))
    configured(home, "sh", "-c", "id -u; id -g; id -G; cat /proc/self/uid_map")
    said = command(home, "run", "box")
    assert (said.returncode, said.stderr) == (0, ""), said.stderr
    uid, gid, groups, *lines = said.stdout.splitlines()
    assert (uid, gid, groups) == ("7", "8", "8 9")
    assert [line.split() for line in lines] == [["0", str(USER), "1"], ["1", str(first), str(count)]]
