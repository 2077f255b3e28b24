"""What a machine does to an engine: its clock is set, it boots anew, it has no descriptors or processes left.

The clock is one that every Python process of the engine loads (see clock/sitecustomize.py); the kernel's boot id is a
file of ours in a mount namespace of our own; limits are the kernel's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import secrets
import shutil
import struct
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from bulkhead.ctl import purging, remains
from bulkhead.linux import hostmounts
from bulkhead.model.instance import SERVICES, Instance
from tests.support.engine import Engine

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_CLOCK = Path(__file__).parent / "clock"
_CLONE_NEWNS, _MS_BIND, _MS_PRIVATE = 0x20000, 0x1000, 1 << 18 | 0x4000


class Machine:
    """The machine as the engine sees it. `boots` where this process has a mount namespace of its own."""

    def __init__(self, place: Path, *, boots: bool) -> None:
        self._offset, self._boot_id = place / "clock", place / "boot_id"
        self.boots = boots
        self.set_clock(0)

    def set_clock(self, seconds: float) -> None:
        """So far from true time."""
        with self._offset.open("r+b" if self._offset.exists() else "wb") as file:
            file.write(struct.pack("=q", int(seconds * 1e9)))

    def reboot(self, engine: Engine) -> None:
        """No process, no mount, no interface, no rule, no run directory is left, and the boot id is another."""
        instance = engine.instance
        engine.kill()
        purging.kill_all(instance)
        list(purging.remove_network(instance))
        for target in [*hostmounts.mounted_below(instance.data), *hostmounts.mounted_below(instance.run)]:
            hostmounts.unmount(target)
        wipe(instance)
        self._boot_id.write_text(f"{uuid.uuid4()}\n")


@contextlib.contextmanager
def machine(*, boots: bool) -> Iterator[Machine]:
    """For engines that are started within. `boots` moves this process into a mount namespace, for good."""
    place = Path(tempfile.mkdtemp(prefix="bh-machine-", dir="/tmp"))
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "BULKHEAD_TEST_CLOCK")}
    try:
        made = Machine(place, boots=boots)
        if boots:
            _own_boot_id(place / "boot_id")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_CLOCK), before["PYTHONPATH"])))
        os.environ["BULKHEAD_TEST_CLOCK"] = str(place / "clock")
        yield made
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(place, ignore_errors=True)


def wipe(instance: Instance) -> None:
    """Nothing is left in the run directory."""
    for each in instance.run.iterdir():
        if each.is_dir():
            # A zygote that dies takes its own away at the same time.
            while each.exists():
                shutil.rmtree(each, ignore_errors=True)
        else:
            each.unlink(missing_ok=True)


def _own_boot_id(place: Path) -> None:
    place.write_text(Path(_BOOT_ID).read_text())
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.unshare(_CLONE_NEWNS))
    _checked(libc.mount(b"none", b"/", None, _MS_PRIVATE, None))
    _checked(libc.mount(os.fsencode(place), _BOOT_ID.encode(), None, _MS_BIND, None))


def _checked(answer: int) -> None:
    if answer:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def without_descriptors(pids: Iterable[int]) -> Iterator[None]:
    """Each of `pids` gets EMFILE for whatever it opens, accepts or is passed."""
    before: dict[int, tuple[int, int]] = {}
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                used = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
                free = next(number for number in range(len(used) + 1) if number not in used)
                limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, limits[1]))
                before[pid] = limits
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


@contextlib.contextmanager
def without_processes(engine: Engine) -> Iterator[None]:
    """Whoever of the engine clones, a thread or a process, gets EAGAIN: their pids cgroup is full."""
    root = Path("/sys/fs/cgroup/pids")
    group = root / f"bh-matrix-{secrets.token_hex(4)}"
    group.mkdir()
    try:
        services = {pid for service in SERVICES if (pid := engine.pid(service)) is not None}
        for pid in services | set(remains.processes(engine.instance)):
            with contextlib.suppress(ProcessLookupError):
                (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text("1")
        yield
    finally:
        (group / "pids.max").write_text("max")
        while pids := remains.cgroup_pids(group):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    (root / "cgroup.procs").write_text(str(pid))
        group.rmdir()
