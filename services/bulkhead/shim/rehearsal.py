"""A container's life played through in the zygote, so that its shims have nothing left to learn.

The interpreter rewrites what it executes: functions are counted, specialised and given caches, each in the page where
its code lies, and a shim that is the first to run them copies that page for good. What the zygote has run a few
times is the same in all of its forks, and faster from their first call on.

The container is a real one that never executes anything: it stays parked. Its root is empty, its cgroups are
directories with files as the kernel's: nobody outside sees it. It ends with the zygote.
"""
# ruff: noqa: PTH103 -- see linux.atomicfile

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from bulkhead import nsexec
from bulkhead.errors import Unavailable
from bulkhead.linux import atomicfile
from bulkhead.linux.cgroup_ahead import GroupAhead
from bulkhead.linux.cgroup_mounts import Hierarchies
from bulkhead.runtime import launch, planned
from bulkhead.runtime.rootfs import OverlayRootfs
from bulkhead.shim import messages
from bulkhead.shim.adapters.launchers import Launchers
from bulkhead.shim.adapters.runtime_launcher import RuntimeLauncher
from bulkhead.shim.identity import Identity
from bulkhead.shim.ports import Further, Ready, Rootfs, Stdio, Task
from bulkhead.wire import direct
from bulkhead.wire.ttrpc import TYPE_REQUEST, FrameReader, frame
from bulkhead.wire.ttrpc_protobuf import Message, encode

# The interpreter looks at a function again at its eighth call, and at its instructions in the ninth.
ROUNDS = 9
_MOST_TURNS = 50
_EXEC = "rehearsal"
_GROUP = "/rehearsal"
_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "name=systemd")
_CGROUP_FILES = {
    "tasks": "",
    "cgroup.procs": "",
    "cpuset.cpus": "0\n",
    "cpuset.mems": "0\n",
    "devices.list": "a *:* rwm\n",
    "devices.allow": "",
    "devices.deny": "",
    "freezer.state": "THAWED\n",
    "memory.oom_control": "oom_kill 0\n",
}
_CONFIG: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs"},
    "process": {"args": ["true"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
    "linux": {
        "cgroupsPath": _GROUP,
        "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
    },
}

# Told from whom an answer is awaited.
Turn = Callable[[socket.socket], None]


def nothing() -> None:
    """An intermission without an act."""


class Stage:
    """What is there before the curtain rises, for all plays: the directory `scratch` and what is in it."""

    def __init__(self, scratch: str) -> None:
        self.planned = b""
        self.identity = Identity("rehearsal" * 7, f"{scratch}/run", f"{scratch}/data")
        self.rootfs = OverlayRootfs(lower=(f"{scratch}/lower",), upper=f"{scratch}/upper", work=f"{scratch}/work")
        self._scratch = scratch
        self._cgroups = f"{scratch}/cgroups"

    def prepare(self) -> None:
        """Raises OSError and BulkheadError."""
        for name in ("lower/bin", "upper", "work"):
            os.makedirs(f"{self._scratch}/{name}", mode=0o700)
        # It is looked for, but never executed.
        os.close(os.open(f"{self._scratch}/lower/bin/true", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o755))
        worked_out = planned.container(self.identity.container_id, _CONFIG, self.rootfs)
        self.planned = worked_out.pack() if worked_out else b""

    def lay_out(self) -> None:
        """Make what a container takes away at its end: its cgroups. Raises OSError."""
        for controller in _CONTROLLERS:
            os.makedirs(f"{self._cgroups}/{controller}{_GROUP}", exist_ok=True)
            for name, content in _CGROUP_FILES.items():
                path = f"{self._cgroups}/{controller}{_GROUP}/{name}"
                atomicfile.write(path, content.encode(), durable=False)

    def tidy(self) -> None:
        """Let it take them away: the files are the kernel's, so to speak."""
        for controller in _CONTROLLERS:
            for name in _CGROUP_FILES:
                atomicfile.remove(f"{self._cgroups}/{controller}{_GROUP}/{name}", durable=False)

    def launcher(self) -> Launchers:
        """One that launches here."""
        return Launchers(StandIn(self._cgroups))

    def clear(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self._scratch, ignore_errors=True)


class Play:
    """One life, as the supervisor and the manager would have it."""

    def __init__(self, stage: Stage, intermission: Callable[[], None], *, execs: bool = True) -> None:
        """`intermission` is called when the container runs, and nobody asks for anything; `execs` come after it."""
        self._stage = stage
        self._identity = stage.identity
        self._intermission = intermission
        self._execs = execs
        self._stream = -1
        self._answers = FrameReader()

    @property
    def cgroup(self) -> str:
        """Its container's."""
        return _GROUP

    def prepare(self) -> None:
        """Lay out the bundle. Raises OSError."""
        self._stage.lay_out()
        place = self._identity.data_dir
        os.makedirs(place, mode=0o700, exist_ok=True)
        atomicfile.write(f"{place}/config.json", json.dumps(_CONFIG).encode(), durable=False)

    def run(self, turn: Turn) -> None:
        """Let the shim live; `turn` is a turn of its loop, or the wait for one."""
        run = self._identity.run_dir
        with socket.socket(socket.AF_UNIX) as keeper, socket.socket(socket.AF_UNIX) as client:
            keeper.connect(f"{run}/stdio.sock")
            keeper.sendall(b'{"op":"keep"}\n')
            client.connect(f"{run}/shim.sock")
            client.setblocking(False)
            self._call(client, self._beginning(), turn)
            self._intermission()
            self._call(client, self._end(), turn)
            self._stage.tidy()
            self._call(client, [("Shutdown", messages.Empty(), 1)], turn)

    def clear(self) -> None:
        """Leave nothing of it."""
        shutil.rmtree(self._identity.data_dir, ignore_errors=True)

    def _call(self, client: socket.socket, calls: Sequence[tuple[str, Message, int]], turn: Turn) -> None:
        for method, message, answers in calls:
            self._stream += 2
            request = direct.request(f"/{messages.SERVICE}/{method}", encode(message), "rehearsal")
            client.sendall(frame(self._stream, TYPE_REQUEST, request))
            self._hear(client, answers, turn)

    def _hear(self, client: socket.socket, answers: int, turn: Turn) -> None:
        """Let so many calls be answered. Unavailable when they are not, or when one fails."""
        for _ in range(_MOST_TURNS):
            turn(client)
            with contextlib.suppress(BlockingIOError):
                for answer in self._answers.feed(client.recv(1 << 16)):
                    status = direct.answered(answer.payload).status
                    if status is not None and status.code:
                        raise Unavailable(f"cannot rehearse: {status.message}")
                    answers -= 1
            if answers <= 0:
                return
        raise Unavailable("cannot rehearse: a call is not answered")

    def _beginning(self) -> list[tuple[str, Message, int]]:
        """With how many answers are heard before the next."""
        log = messages.LogOptions(driver="json-file", path=f"{self._identity.data_dir}/log", max_size=1 << 20)
        ours = self._stage.rootfs
        rootfs = messages.OverlayRootfs(lower=[*ours.lower], upper=ours.upper, work=ours.work)
        return [
            ("Create", messages.CreateRequest(rootfs=rootfs, log=log, planned=self._stage.planned, start=True), 1),
            ("Wait", messages.ExecReference(), 0),
        ]

    def _end(self) -> list[tuple[str, Message, int]]:
        return [
            *(self._exec() if self._execs else ()),
            ("Kill", messages.KillRequest(signal=signal.SIGKILL), 2),
            ("State", messages.Empty(), 1),
        ]

    @staticmethod
    def _exec() -> list[tuple[str, Message, int]]:
        process = json.dumps({"args": ["true"], "terminal": False}).encode()
        return [
            ("ExecCreate", messages.ExecCreateRequest(exec_id=_EXEC, process=process), 1),
            ("ExecStart", messages.ExecReference(exec_id=_EXEC), 1),
            ("Wait", messages.ExecReference(exec_id=_EXEC), 0),
            ("Kill", messages.KillRequest(exec_id=_EXEC, signal=signal.SIGKILL), 2),
        ]


class StandIn(RuntimeLauncher):
    """The engine's own core, but for the cgroups, and for what it never executes."""

    def __init__(self, cgroups: str) -> None:
        mounted = Hierarchies(v1={name: f"{cgroups}/{name}" for name in _CONTROLLERS}, unified=None)
        super().__init__(lambda _path: GroupAhead(_GROUP, mounted))
        self._parked: tuple[object, ...] = ()

    def create(
        self,
        *,
        container_id: str,
        data_dir: str,
        terminal: bool,
        rootfs: Rootfs | None,
        stdio: Stdio,
        planned: bytes = b"",
        network: tuple[str, int] | None = None,
        begun: Callable[[Task], None],
        go: Callable[[Task, int], None] | None = None,
    ) -> Task:
        def gone(task: Task, root: int) -> None:
            assert go is not None
            go(task, root)
            self._park(cast(launch.Task, task))

        task = super().create(
            container_id=container_id,
            data_dir=data_dir,
            terminal=terminal,
            rootfs=rootfs,
            stdio=stdio,
            planned=planned,
            network=network,
            begun=begun,
            go=None if go is None else gone,
        )
        if go is None:
            self._park(cast(launch.Task, task))
        return task

    def _park(self, task: launch.Task) -> None:
        """Let it be told to go on, and say that it has, where it cannot hear that."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.shutdown(socket.SHUT_WR)
        self._parked = (task.told_by(nsexec.Launch(task.pid, task.pidfd, ours.detach())), theirs)

    def exec(
        self,
        *,
        task: Task,
        data_dir: str,
        process: Mapping[str, Any],
        stdio: Stdio,
        planned: bytes = b"",
        ready: Ready | None = None,
        begun: Callable[[], None] | None = None,
        settled: bool = True,
    ) -> Further:
        if begun is not None:
            begun()
        return _Waiting()


class _Waiting:
    """`ports.Further`: a child that ends by a signal, or with its parent's end of the pipe."""

    console: int | None = None
    warnings: tuple[str, ...] = ()

    def __init__(self) -> None:
        theirs, self._held = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._held)
                os.read(theirs, 1)
            finally:
                os._exit(0)
        os.close(theirs)
        self.pidfd = os.pidfd_open(self.pid)

    def settle(self) -> None:
        """It has no other program."""

    def __del__(self) -> None:
        os.close(self._held)
