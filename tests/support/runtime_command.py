"""The command `bulkhead-runtime` as its callers see it: bundles on disk, a state root, a process per verb."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bulkhead.linux.cgroups import Cgroup, hierarchies
from bulkhead.runtime.state import container_ids
from tests.support.containers import BUSYBOX, docker_config, make_image

COMMAND = (sys.executable, "-c", "from bulkhead.runtime.command.entry import main; main()")
PATIENCE = 30.0

Config = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one command came to."""

    status: int
    output: str
    errors: str


class Runtime:
    """One state root and its bundles; `command` may be any runtime with runc's contract."""

    def __init__(self, base: Path, parent: str, command: Sequence[str] = COMMAND) -> None:
        self.root = base / "state"
        self.base = base
        self.parent = parent
        self.command = tuple(command)
        self.image = base / "image"
        make_image(self.image)

    def config(self, *args: str, **process: Any) -> Config:
        config = docker_config(f"{self.parent}/unnamed", args, **process)
        return {**config, "root": {"path": str(self.image)}}

    def bundle(self, name: str, config: Config) -> Path:
        """A directory with this config, whose cgroup is its own."""
        directory = self.base / name
        directory.mkdir(exist_ok=True)
        linux = {**config["linux"], "cgroupsPath": f"{self.parent}/{name}"}
        (directory / "config.json").write_text(json.dumps({**config, "linux": linux}))
        return directory

    def __call__(self, *words: str | Path, stdin: str = "", **rest: Any) -> Said:
        done = subprocess.run(
            [*self.command, "--root", str(self.root), *map(str, words)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            **rest,
        )
        return Said(status=done.returncode, output=done.stdout, errors=done.stderr)

    def create(self, name: str, config: Config, *options: str | Path) -> Said:
        """Its stdio is /dev/null: what stays behind must not hold the test's pipes."""
        bundle = self.bundle(name, config)
        return self.silently("create", "--bundle", bundle, *options, name)

    def silently(self, *words: str | Path) -> Said:
        """For verbs that leave a process behind: only stderr is read, and from a file."""
        errors = self.base / "errors"
        with errors.open("wb") as file:
            done = subprocess.run(
                [*self.command, "--root", str(self.root), *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                timeout=PATIENCE,
                check=False,
            )
        return Said(status=done.returncode, output="", errors=errors.read_text())

    def state(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self("state", name).output)
        return state

    def group(self, name: str) -> Cgroup:
        return Cgroup(f"{self.parent}/{name}")

    def close(self) -> None:
        """End every container; AssertionError when one leaves a cgroup or a state directory."""
        for name in container_ids(str(self.root)):
            self("delete", "--force", name)
        left = [root + self.parent for root in hierarchies().roots()]
        assert not container_ids(str(self.root)), "a state directory is left"
        for directory in map(Path, left):
            children = [path.name for path in directory.iterdir() if path.is_dir()] if directory.exists() else []
            assert not children, f"cgroups are left: {children}"
            with contextlib.suppress(FileNotFoundError):
                directory.rmdir()


def runtimes(base: Path, parent: str) -> Iterator[Runtime]:
    """For fixtures."""
    assert BUSYBOX.exists()
    runtime = Runtime(base, parent)
    try:
        yield runtime
    finally:
        runtime.close()
