"""H10: root of a container's user namespace is somebody on the host, and may write nowhere that is the runtime's."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import BUSYBOX
from tests.support.runtime_command import Config, Runtime, runtimes

MAPPED = 100_000
COUNT = 65_536


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    """Below a directory that everybody may enter: what is in it must keep others out by itself."""
    if os.geteuid() != 0 or not BUSYBOX.exists():
        pytest.skip("needs root and busybox-static")
    base = Path(tempfile.mkdtemp(prefix="bh-h10-", dir="/tmp"))
    base.chmod(0o755)
    try:
        yield from runtimes(base, f"/bh-h10-{secrets.token_hex(4)}")
    finally:
        shutil.rmtree(base)


def remapped(runtime: Runtime) -> Config:
    """The image is the container's own, as whoever remaps makes it."""
    subprocess.run(["chown", "-R", f"{MAPPED}:{MAPPED}", runtime.image], check=True)
    config = runtime.config("sleep", "1000")
    config["mounts"] = [each for each in config["mounts"] if each["type"] != "cgroup"]
    maps = [{"containerID": 0, "hostID": MAPPED, "size": COUNT}]
    linux = {key: value for key, value in config["linux"].items() if key != "sysctl"}
    linux["namespaces"] = [*linux["namespaces"], {"type": "user"}]
    return {**config, "linux": linux | {"uidMappings": maps, "gidMappings": maps}}


def writable_for_mapped_root(place: Path) -> list[str]:
    return writable_for(MAPPED, place)


def writable_for(user: int, place: Path) -> list[str]:
    """What access(2) lets this user of the host write to below `place`, whether it could find it or not."""
    paths = [str(place), *(str(path) for path in place.rglob("*") if not path.is_symlink())]
    as_mapped = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    script = 'for path; do if [ -w "$path" ]; then echo "$path"; fi; done'
    found = subprocess.run([*as_mapped, "sh", "-c", script, "sh", *paths], capture_output=True, text=True, check=True)
    return [str(Path(line).relative_to(place)) for line in found.stdout.splitlines()]


def owners(place: Path) -> set[int]:
    return {
        os.lstat(Path(directory) / name).st_uid for directory, dirs, files in os.walk(place) for name in (*dirs, *files)
    }


def test_mapped_root_writes_nowhere_in_the_state(runtime: Runtime) -> None:
    created = runtime.create("box", remapped(runtime))
    assert created.status == 0, created.errors
    runtime.root.chmod(0o711)
    # The one thing there that is the process's own: by opening it, it says that it is ready to be started.
    assert [path for path in writable_for_mapped_root(runtime.root) if Path(path).name != "exec.fifo"] == []
    assert runtime("start", "box").status == 0
    assert Path(f"/proc/{runtime.state('box')['pid']}").stat().st_uid == MAPPED
    assert writable_for_mapped_root(runtime.root) == []
    assert owners(runtime.root) == {0}


def test_the_control_finds_what_is_writable(runtime: Runtime) -> None:
    assert runtime.create("box", remapped(runtime)).status == 0
    runtime.root.chmod(0o711)
    careless = runtime.root / "box" / "careless"
    careless.touch()
    os.chown(careless, MAPPED, MAPPED)
    assert "box/careless" in writable_for_mapped_root(runtime.root)
