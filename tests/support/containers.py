"""Real containers from a busybox root file system, straight from the runtime core, with a leak check of their own."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import select
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bulkhead.linux.cgroups import Cgroup, hierarchies
from bulkhead.runtime import defaults, launch
from bulkhead.runtime.launch import ExecProcess, Task
from bulkhead.runtime.rootfs import OverlayRootfs, StdioFds
from tests.support.descriptors import left_since, open_descriptors

BUSYBOX = Path("/bin/busybox")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n1001:x:0:0::/:/bin/sh\n"
GROUP = "root:x:0:\nwheel:x:10:root,bob\nbob:x:1000:\nstaff:x:50:\n"
PATIENCE = 20.0

Config = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A container that has run: exit code, everything it wrote, and what the runtime warned about."""

    code: int
    output: str
    warnings: tuple[str, ...]


class Box:
    """A directory with an image, and a cgroup parent; every container of it has its own writable layer."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.parent = f"/bh-test-{secrets.token_hex(4)}"
        self.image = base / "image"
        self._numbers = itertools.count(1)
        self._running: list[Task] = []
        make_image(self.image)

    def config(self, *args: str, **process: Any) -> Config:
        """Docker's default config for this command; `process` overrides keys of its process."""
        return docker_config(f"{self.parent}/c{next(self._numbers)}", args, **process)

    def rootfs(self, *, volatile: bool = True) -> OverlayRootfs:
        number = next(self._numbers)
        upper, work = self.base / f"upper{number}", self.base / f"work{number}"
        upper.mkdir()
        work.mkdir()
        return OverlayRootfs(lower=(str(self.image),), upper=str(upper), work=str(work), volatile=volatile)

    def create(self, config: Mapping[str, Any], stdio: StdioFds = StdioFds(), **rest: Any) -> Task:  # noqa: B008
        rest.setdefault("rootfs", self.rootfs())
        task = launch.create(container_id=f"box{next(self._numbers)}", config=config, stdio=stdio, **rest)
        self._running.append(task)
        return task

    def start(self, *args: str, **process: Any) -> tuple[Task, Config]:
        """A container that runs with everything on /dev/null."""
        config = self.config(*args, **process)
        task = self.create(config)
        task.start()
        return task, config

    def run(self, *args: str, edit: Callable[[Config], None] | None = None, **process: Any) -> Finished:
        """Create, start, collect stdout and stderr, wait, remove."""
        config = self.config(*args, **process)
        if edit:
            edit(config)
        return self.run_config(config)

    def run_config(self, config: Mapping[str, Any], **rest: Any) -> Finished:
        read, write = os.pipe2(os.O_CLOEXEC)
        with os.fdopen(read, "rb") as output:
            try:
                task = self.create(config, StdioFds(stdout=write, stderr=write), **rest)
            finally:
                os.close(write)
            task.start()
            text = output.read().decode(errors="replace")
        return Finished(code=self.finish(task), output=text, warnings=task.warnings)

    def exec(self, task: Task, config: Config, *args: str, **process: Any) -> Finished:
        """Run a further process and collect what it writes."""
        read, write = os.pipe2(os.O_CLOEXEC)
        wanted = {**config["process"], "args": list(args), "terminal": False, **process}
        with os.fdopen(read, "rb") as output:
            try:
                started = launch.exec_(
                    task=task, config=config, process=wanted, stdio=StdioFds(stdout=write, stderr=write)
                )
            finally:
                os.close(write)
            text = output.read().decode(errors="replace")
        return Finished(code=ended(started), output=text, warnings=started.warnings)

    def finish(self, task: Task) -> int:
        """Wait for the end, reap, remove the cgroup, close."""
        code = wait(task.pidfd)
        self._running.remove(task)
        task.cgroup.remove()
        task.close()
        return code

    def kill(self, task: Task) -> int:
        task.cgroup.kill_all()
        return self.finish(task)

    def close(self) -> None:
        for task in list(self._running):
            task.cgroup.kill_all()
            with contextlib.suppress(Exception):
                wait(task.pidfd)
            task.cgroup.remove()
            task.close()
        Cgroup(self.parent).remove()


def namespace(pid: int | str, name: str) -> str:
    """Identity of a process's namespace."""
    return str(Path(f"/proc/{pid}/ns/{name}").readlink())


def wait(pidfd: int) -> int:
    """Exit code once the process has ended; fails rather than hang.

    Whoever traces a process reaps it first: its pidfd is readable before its parent can.
    """
    assert select.select([pidfd], [], [], PATIENCE)[0], "the process does not end"
    deadline = time.monotonic() + PATIENCE
    while (status := launch.reap(pidfd)) is None:
        assert time.monotonic() < deadline, "the process cannot be reaped"
        time.sleep(0.005)
    return status.code


def ended(process: ExecProcess) -> int:
    try:
        return wait(process.pidfd)
    finally:
        os.close(process.pidfd)


def read_terminal(console: int, pidfd: int) -> str:
    """What a container wrote to its terminal, once it has ended."""
    text = b""
    while True:
        ready, _, _ = select.select([console, pidfd], [], [], PATIENCE)
        assert ready, "the terminal is silent"
        if console in ready:
            try:
                chunk = os.read(console, 65536)
            except OSError:  # EIO: the last slave is closed
                return text.decode()
            if not chunk:
                return text.decode()
            text += chunk
        elif not select.select([console], [], [], 0)[0]:
            return text.decode()


def make_image(image: Path) -> None:
    """busybox with its applets, and users of its own."""
    for name in ("bin", "etc", "root", "tmp", "var", "home/bob"):
        (image / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, image / "bin" / "busybox")
    applets = "sh ls cat id mount umount sleep true false ps hostname env tty stat grep head wc echo touch mkdir ip"
    more = "mknod rm dd readlink stty pwd sysctl test kill nproc ulimit chmod chown ln printf sort cut basename unshare"
    for name in (applets + " " + more).split():
        (image / "bin" / name).symlink_to("busybox")
    (image / "etc" / "passwd").write_text(PASSWD)
    (image / "etc" / "group").write_text(GROUP)


def docker_config(cgroup: str, args: tuple[str, ...], **process: Any) -> Config:
    """What the manager makes for a container without options, network aside: a namespace of its own."""
    held = list(defaults.DEFAULT_CAPABILITIES)
    return {
        "ociVersion": "1.2.0",
        "process": {
            "args": list(args),
            "cwd": "/",
            "env": ["PATH=/bin"],
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": held, "effective": held, "permitted": held},
            "oomScoreAdj": 0,
            **process,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "box",
        "mounts": defaults.default_mounts(),
        "annotations": {},
        "linux": {
            "namespaces": [{"type": kind} for kind in ("mount", "network", "uts", "pid", "ipc", "cgroup")],
            "cgroupsPath": cgroup,
            "resources": {"devices": defaults.default_devices_rules()},
            "maskedPaths": list(defaults.DEFAULT_MASKED_PATHS),
            "readonlyPaths": list(defaults.DEFAULT_READONLY_PATHS),
            "sysctl": dict(defaults.DEFAULT_SYSCTLS),
            "seccomp": defaults.default_seccomp(defaults.DEFAULT_CAPABILITIES),
        },
    }


def mounts_below(base: Path) -> list[str]:
    """This process's mounts that a launch below `base` could leave behind."""
    return sorted(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(base) in line)


def boxed(base: Path) -> Iterator[Box]:
    """Body of a fixture: afterwards no mount, cgroup, child or descriptor may be left."""
    launch.prepare()
    before, mounts = open_descriptors(), mounts_below(base)
    others = _children()
    box = Box(base)
    try:
        yield box
    finally:
        box.close()
    assert (left_since(before), mounts_below(base)) == ([], mounts)
    assert not [root for root in hierarchies().roots() if Path(root + box.parent).exists()]
    left = _children() - others
    assert not left, f"children are left: {left}"


def _children() -> set[int]:
    """Pids of this process's children, zombies too. Other fixtures of the same worker have their own."""
    found = set[int]()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends as it is looked at
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found
