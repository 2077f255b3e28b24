"""A real distribution's tree, by every road in and out of our registry."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.engine import Engine
from tests.support.images import debian_layout

SECONDS = 240.0


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def layout() -> Path:
    return debian_layout()


@pytest.mark.timeout(900)
def test_pushed_by_skopeo_run_by_us_pushed_by_docker_pulled_by_podman(engine: Engine, layout: Path) -> None:
    """200 MB in 7,000 files with set-id bits, hard links and capabilities: nothing may be lost on the way."""
    registry = engine.instance.registry
    first, second = f"{registry}/debian:skopeo", f"{registry}/debian:docker"
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:debian", f"docker://{first}")
    engine.docker_ok("pull", first, seconds=SECONDS)
    assert "Debian" in engine.docker_ok("run", "--rm", first, "cat", "/etc/os-release")
    assert engine.docker_ok("run", "--rm", first, "stat", "-c", "%a", "/usr/bin/passwd") == "4755"
    assert engine.docker_ok("run", "--rm", first, "dpkg", "--verify") == ""
    engine.docker_ok("tag", first, second)
    engine.docker_ok("push", second, seconds=SECONDS)
    engine.docker_ok("rmi", first, second)
    copied = run("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{second}")
    pushed = run("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{first}")
    assert copied == pushed
    if shutil.which("podman") is not None:
        store = engine.base / "podman"
        places = ("--root", str(store / "root"), "--runroot", str(store / "run"), "--storage-driver", "vfs")
        run("podman", *places, "pull", "-q", "--tls-verify=false", second)
        assert "debian" in run("podman", *places, "images", "--format", "{{.Repository}}")
