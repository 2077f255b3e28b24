"""A manager in memory with shims of its own, for tests of the API daemon alone.

"Containers" are plain processes of the host without any isolation: their commands must be harmless. Everything else
is as the API sees it from the real engine: gRPC by the generated bases, stdio sockets, logs, an event journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import secrets
import shutil
import signal
import struct
import termios
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bulkhead import errors
from bulkhead.api.schema.times import rfc3339
from bulkhead.model.container import ContainerSpec, NetworkEndpoint, PublishedPort
from bulkhead.model.instance import Instance
from bulkhead.model.lifecycle import Phase
from bulkhead.model.names import normal
from bulkhead.wire.convert import to_message, to_model
from bulkhead.wire.gen.bulkhead.manager import v1 as wire
from bulkhead.wire.gen.bulkhead.types import v1 as types
from bulkhead.wire.server import serve
from tests.support.fake_networks import FakeNetworks
from tests.support.fake_volumes import FakeVolumes

CLOSE_SECONDS = 5
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOT_FOUND = (
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
    'exec: "{0}": executable file not found in $PATH: unknown'
)


@dataclass
class FakeImage:
    id: str
    tags: list[str]
    command: tuple[str, ...] = ("sh",)
    size: int = 4_000_000
    created_at: int = 1_700_000_000 * 10**9


@dataclass
class Journal:
    """Events, numbered; readers are woken by a condition."""

    entries: list[wire.Event] = field(default_factory=list)
    grown: asyncio.Condition = field(default_factory=asyncio.Condition)

    def add(self, kind: str, action: str, actor: str, **attributes: str) -> None:
        event = wire.Event(
            sequence=len(self.entries) + 1,
            type=kind,
            action=action,
            actor_id=actor,
            attributes=attributes,
            time=time.time_ns(),
        )
        self.entries.append(event)
        asyncio.ensure_future(self._wake())  # noqa: RUF006

    async def _wake(self) -> None:
        async with self.grown:
            self.grown.notify_all()


class Process:
    """A host process with its output fanned out, and its input."""

    def __init__(self, tty: bool) -> None:
        self.tty = tty
        self.peers: list[tuple[asyncio.StreamWriter, frozenset[int]]] = []
        self.exited: asyncio.Event = asyncio.Event()
        self.exit_code = 0
        self.pid = 0
        self._master = -1
        self._child: asyncio.subprocess.Process | None = None
        self._typed_early = b""
        self._ended_early = False
        self.on_output: Callable[[int, bytes], None] = lambda stream, data: None
        self.on_exit: Callable[[], None] = lambda: None

    async def start(self, argv: tuple[str, ...], env: Mapping[str, str], stdin: bool) -> None:
        if shutil.which(argv[0], path=env["PATH"]) is None:
            raise errors.LaunchFailed(NOT_FOUND.format(argv[0]), step="exec", errno=2, exit_code=127)
        if self.tty:
            self._master, slave = pty.openpty()
            streams: dict[str, Any] = {"stdin": slave, "stdout": slave, "stderr": slave}
        else:
            pipe = asyncio.subprocess.PIPE
            streams = {"stdin": pipe if stdin else asyncio.subprocess.DEVNULL, "stdout": pipe, "stderr": pipe}
        self._child = await asyncio.create_subprocess_exec(*argv, env=env, start_new_session=True, cwd="/", **streams)
        self.pid = self._child.pid
        if self.tty:
            os.close(slave)
        if self._typed_early:
            self.type(self._typed_early)
        if self._ended_early:
            self.input_ended()
        asyncio.ensure_future(self._live())  # noqa: RUF006

    async def _live(self) -> None:
        assert self._child is not None
        if self.tty:
            await self._pump_tty()
        else:
            assert self._child.stdout is not None and self._child.stderr is not None
            await asyncio.gather(self._pump(1, self._child.stdout), self._pump(2, self._child.stderr))
        code = await self._child.wait()
        self.exit_code = code if code >= 0 else 128 - code
        self.on_exit()
        self.exited.set()
        for writer, _ in self.peers:
            writer.close()

    async def _pump(self, stream: int, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(1 << 16):
            await self._said(stream, data)

    async def _pump_tty(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.run_in_executor(None, os.read, self._master, 1 << 16)
            except OSError:
                return
            if not data:
                return
            await self._said(1, data)

    async def _said(self, stream: int, data: bytes) -> None:
        self.on_output(stream, data)
        frame = data if self.tty else struct.pack(">BxxxL", stream, len(data)) + data
        for writer, wanted in list(self.peers):
            if stream in wanted:
                with contextlib.suppress(ConnectionError, RuntimeError):
                    writer.write(frame)
                    await writer.drain()

    def type(self, data: bytes) -> None:
        if self.tty and self._master >= 0:
            os.write(self._master, data)
        elif self._child is None:
            self._typed_early += data
        elif self._child.stdin is not None:
            # uvloop's pipes say that the process is gone by a RuntimeError.
            with contextlib.suppress(RuntimeError, ConnectionError):
                self._child.stdin.write(data)

    def input_ended(self) -> None:
        if self._child is None:
            self._ended_early = True
        elif not self.tty and self._child.stdin is not None:
            with contextlib.suppress(RuntimeError, ConnectionError):
                self._child.stdin.close()

    def kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def resize(self, height: int, width: int) -> None:
        if self._master >= 0:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


@dataclass
class FakeExec:
    id: str
    container: FakeContainer
    spec: wire.ExecSpec
    process: Process
    started: bool = False
    exit_code: int | None = None


class FakeContainer:
    def __init__(
        self, engine: FakeManager, container_id: str, name: str, spec: ContainerSpec, image: FakeImage
    ) -> None:
        self.engine = engine
        self.id = container_id
        self.name = name
        words = (*(spec.entrypoint or ()), *(spec.command or (() if spec.entrypoint else image.command)))
        self.spec = replace(
            spec, command=spec.command or image.command, env=(f"PATH={PATH}", *spec.env), hostname=container_id[:12]
        )
        self.argv = words
        self.image = image
        self.phase = Phase.CREATED
        self.created_at = time.time_ns()
        self.started_at = self.finished_at = 0
        self.exit_code = 0
        self.error = ""
        self.endpoint: NetworkEndpoint | None = None
        self.execs: dict[str, FakeExec] = {}
        self.process = self._fresh_process()
        self.waiters: list[tuple[str, asyncio.Future[int]]] = []
        self.followers: list[asyncio.StreamWriter] = []
        self.log_path = str(engine.instance.log_file(container_id))
        self.socket = str(engine.instance.stdio_socket(container_id))
        self._server: asyncio.Server | None = None
        self._partial: dict[int, bytes] = {1: b"", 2: b""}

    def _fresh_process(self) -> Process:
        process = Process(self.spec.tty)
        process.on_output = self._log
        process.on_exit = self._exited
        return process

    # -- the shim

    async def listen(self) -> None:
        if self._server is None:
            os.makedirs(os.path.dirname(self.socket), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
            self._server = await asyncio.start_unix_server(self._client, self.socket)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while self._creates(wish := json.loads(await reader.readline())):
                made = self.add_exec(wire.ExecSpec.from_dict(wish["spec"]), self.id[:12])
                writer.write(json.dumps({"ok": True, "exec_id": made}).encode() + b"\n")
            await self._serve(wish, reader, writer)
        except ValueError:
            writer.close()  # it said nothing more
        except errors.BulkheadError as error:
            answer = {"ok": False, "error": str(error), "kind": type(error).__name__}
            writer.write(json.dumps(answer).encode() + b"\n")
            writer.close()

    def _creates(self, wish: dict[str, Any]) -> bool:
        if wish["op"] == "new" and not self.engine.shims_create:
            raise errors.Conflict("the manager is to be asked")
        return bool(wish["op"] == "new")

    def add_exec(self, spec: wire.ExecSpec, where: str) -> str:
        exec_id = secrets.token_hex(26) + where
        self.execs[exec_id] = FakeExec(exec_id, self, spec, Process(spec.tty))
        return exec_id

    async def _serve(self, wish: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def answer(tty: bool) -> None:
            writer.write(json.dumps({"ok": True, "tty": tty}).encode() + b"\n")

        if wish["op"] == "follow":
            answer(False)
            if not self.phase.alive:
                writer.close()
                return
            self.followers.append(writer)
            writer.write(b".")
            return
        starts = wish["op"] in ("exec", "start")
        one = self.execs.get(wish.get("exec_id", "")) if starts else None
        if one is not None and self.engine.expecting == "silent":
            writer.close()
            return
        if one is not None and self.engine.expecting == "unknown":
            self.engine.expecting, one = "", None
        if starts and one is None:
            raise errors.NotFound(f"No such exec instance: {wish.get('exec_id')}")
        if one is None and self.process.exited.is_set():
            self.process = self._fresh_process()  # who attaches to a stopped container means its next run
        if one is not None and one.started:
            raise errors.Conflict(f"exec command {one.id} has already run")
        if one is not None and wish["op"] == "start":
            spec, size = one.spec, (wish["height"], wish["width"])
            if any(size) and size != (spec.height, spec.width):
                raise errors.Conflict("the manager is to be asked for its terminal")
            wish |= {"stdin": spec.attach_stdin, "stdout": spec.attach_stdout, "stderr": spec.attach_stderr}
        process = one.process if one else self.process
        answer(process.tty)
        wanted = frozenset(number for number, name in ((1, "stdout"), (2, "stderr")) if wish[name])
        process.peers.append((writer, wanted))
        if one is not None:
            await self.start_exec(one, stdin=wish["stdin"], writer=writer)
        await self._input(process, reader, writer, wish["stdin"], self.spec.stdin_once or one is not None)

    async def _input(
        self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, takes: bool, once: bool
    ) -> None:
        while data := await reader.read(1 << 16):
            if takes and process.tty and b"\x10\x11" in data:
                process.peers = [peer for peer in process.peers if peer[0] is not writer]
                writer.close()
                return
            if takes:
                process.type(data)
        if takes and once:
            process.input_ended()

    async def start_exec(self, one: FakeExec, *, stdin: bool, writer: asyncio.StreamWriter | None) -> None:
        if one.started:
            raise errors.Conflict(f"exec command {one.id} has already run")
        one.started = True
        one.process.on_exit = lambda: self._exec_exited(one)
        try:
            await one.process.start(tuple(one.spec.command), self._env(one.spec.env), stdin)
        except errors.LaunchFailed as failure:
            one.exit_code = failure.exec_exit_code
            if writer is None:
                raise
            text = f"{failure}\r\n".encode()
            writer.write(text if one.process.tty else struct.pack(">BxxxL", 1, len(text)) + text)
            writer.close()

    def _exec_exited(self, one: FakeExec) -> None:
        one.exit_code = one.process.exit_code
        self.engine.journal.add("container", "exec_die", self.id, execID=one.id, exitCode=str(one.exit_code))

    def _env(self, extra: Iterable[str] = ()) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in (*self.spec.env, *extra) if "=" in entry)

    def _log(self, stream: int, data: bytes) -> None:
        os.makedirs(os.path.dirname(self.log_path), exist_ok=True)  # noqa: PTH103, PTH120
        *lines, rest = (self._partial[stream] + data).split(b"\n")
        self._partial[stream] = rest
        self._append(stream, [line + b"\n" for line in lines])

    def _append(self, stream: int, lines: list[bytes]) -> None:
        name = {1: "stdout", 2: "stderr"}[stream]
        with open(self.log_path, "ab") as file:  # noqa: PTH123
            for line in lines:
                record = {"log": line.decode(errors="replace"), "stream": name, "time": rfc3339(time.time_ns())}
                file.write(json.dumps(record).encode() + b"\n")
        for writer in self.followers:
            with contextlib.suppress(ConnectionError, RuntimeError):
                writer.write(b".")

    def _exited(self) -> None:
        for stream, rest in self._partial.items():
            if rest:
                self._append(stream, [rest])
        self._partial = {1: b"", 2: b""}
        for writer in self.followers:
            writer.close()
        self.followers = []
        self.finished_at = time.time_ns()
        self.exit_code = self.process.exit_code
        self.phase = Phase.EXITED
        self.engine.journal.add("container", "die", self.id, exitCode=str(self.exit_code), **self._attributes())
        self._wake("exit")
        if self.spec.auto_remove:
            asyncio.ensure_future(self.remove())  # noqa: RUF006

    def _attributes(self) -> dict[str, str]:
        return {"name": self.name, "image": self.spec.image, **self.spec.labels}

    # -- the life

    async def start(self) -> None:
        if self.phase.alive:
            raise errors.NotModified("it runs")
        await self.listen()
        if self.process.exited.is_set():
            self.process = self._fresh_process()
        try:
            await self.process.start(self.argv, self._env(), self.spec.open_stdin)
        except errors.LaunchFailed as failure:
            self.error, self.exit_code = str(failure), failure.exit_code
            self._wake("exit")
            if self.spec.auto_remove:
                await self.remove()
            raise
        self.phase = Phase.RUNNING
        self.started_at = time.time_ns()
        self.error = ""
        ports = tuple(replace(port, host_port=port.host_port or 32768) for port in self.spec.ports)
        self.endpoint = NetworkEndpoint(
            network_id="n" * 64, network_name="bridge", endpoint_id="e" * 64, address="172.30.0.2", prefix_len=16,
            gateway="172.30.0.1", mac="02:42:ac:1e:00:02", ports=tuple(PublishedPort(
                container_port=port.container_port, protocol=port.protocol, host_ip=port.host_ip or "0.0.0.0",
                host_port=port.host_port) for port in ports),
        )  # fmt: skip
        self.engine.journal.add("container", "start", self.id, **self._attributes())

    async def stop(self, name: str, timeout: int | None) -> None:
        if not self.phase.alive:
            raise errors.NotModified("it does not run")
        self.kill(name or "TERM")
        try:
            async with asyncio.timeout(10 if timeout is None else timeout):
                await self.process.exited.wait()
        except TimeoutError:
            self.kill("KILL")
            await self.process.exited.wait()
        self.engine.journal.add("container", "stop", self.id, **self._attributes())

    def kill(self, name: str) -> None:
        if not self.phase.alive:
            raise errors.Conflict(f"Cannot kill container: {self.id}: Container {self.id} is not running")
        number = int(name) if name.isdigit() else signal.Signals["SIG" + name.upper().removeprefix("SIG")].value
        self.process.kill(number)

    async def remove(self) -> None:
        self.engine.containers.pop(self.id, None)
        if self._server is not None:
            self._server.close()
        self.engine.journal.add("container", "destroy", self.id, **self._attributes())
        self._wake("removed")

    def _wake(self, what: str) -> None:
        for condition, future in self.waiters:
            if not future.done() and (condition == "removed") == (what == "removed"):
                future.set_result(self.exit_code)

    def message(self) -> types.Container:
        return types.Container(
            id=self.id,
            name=self.name,
            spec=to_message(types.ContainerSpec, self.spec),
            image_id=self.image.id,
            path=self.argv[0] if self.argv else "",
            args=list(self.argv[1:]),
            phase=self.phase.value,
            pid=self.process.pid,
            exit_code=self.exit_code,
            error=self.error,
            created_at=self.created_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            exec_ids=[one.id for one in self.execs.values() if one.started and one.exit_code is None],
            endpoints=[to_message(types.NetworkEndpoint, self.endpoint)] if self.endpoint else [],
            log_path="" if self.spec.log_config.driver == "none" else self.log_path,
            data_dir=str(self.engine.instance.container_data(self.id)),
            upper_dir=f"/snapshots/{self.id}/upper",
            lower_dirs=["/layers/1/fs"],
            size_rw=-1,
        )

    def summary(self) -> types.ContainerSummary:
        return types.ContainerSummary(
            id=self.id,
            name=self.name,
            image=self.spec.image,
            image_id=self.image.id,
            command=" ".join(self.argv),
            created_at=self.created_at,
            phase=self.phase.value,
            exit_code=self.exit_code,
            started_at=self.started_at,
            finished_at=self.finished_at,
            labels=dict(self.spec.labels),
            network_mode=self.spec.network_mode,
            endpoints=[to_message(types.NetworkEndpoint, self.endpoint)] if self.endpoint else [],
            mounts=[to_message(types.Mount, mount) for mount in self.spec.mounts],
            size_rw=-1,
        )


class FakeManager:
    """The whole of it; `serving` listens on the instance's manager socket."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.containers: dict[str, FakeContainer] = {}
        self.images = {
            "busybox:latest": FakeImage("sha256:" + "b" * 64, ["busybox:latest"]),
            "hello-world:latest": FakeImage(
                "sha256:" + "a" * 64, ["hello-world:latest"], ("echo", "Hello from Docker!")
            ),
        }
        self.pullable = {"alpine:latest": FakeImage("sha256:" + "c" * 64, ["alpine:latest"])}
        self.journal = Journal()
        self.loaded = b""
        # Whether somebody has asked how much containers take.
        self.measured = False
        # What the shims make of the first who dials for an exec: "" serves, "unknown", "silent", "away".
        self.expecting = ""
        # Whether shims create execs, and of whom the manager was asked to.
        self.shims_create = False
        self.asked_creates: list[str] = []
        # Whether containers end between the start of an exec and the client's call at their shim.
        self.ends_at_exec = False
        # The execs that were asked to be started here, and those whose start nobody answered.
        self.asked_starts: list[str] = []
        self.unanswered: list[str] = []

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeManager]:
        servicers = (
            _Containers(self),
            _Execs(self),
            _Images(self),
            _System(self),
            FakeVolumes(),
            FakeNetworks(self.instance, self.members),
        )
        async with serve(servicers, self.instance.manager_socket):
            yield self

    def members(self) -> list[wire.NetworkMember]:
        """The containers that run on the default network."""
        return [
            wire.NetworkMember(
                container_id=one.id,
                container_name=one.name,
                endpoint_id=one.endpoint.endpoint_id,
                mac=one.endpoint.mac,
                address=one.endpoint.address,
                prefix_len=one.endpoint.prefix_len,
            )
            for one in self.containers.values()
            if one.phase.alive and one.endpoint is not None
        ]

    async def close(self) -> None:
        """Kill every process and wait for it."""
        for container in list(self.containers.values()):
            if container.phase.alive:
                container.kill("KILL")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await container.process.exited.wait()

    def find(self, ref: str) -> FakeContainer:
        ref = ref.removeprefix("/")
        for one in self.containers.values():
            if ref in (one.id, one.name):
                return one
        found = [one for one in self.containers.values() if one.id.startswith(ref)]
        if len(found) > 1:
            raise errors.InvalidArgument(f"multiple IDs found with provided prefix: {ref}")
        if not found or not ref:
            raise errors.NotFound(f"No such container: {ref}")
        return found[0]

    def check_name(self, name: str) -> None:
        for one in self.containers.values():
            if one.name == name:
                raise errors.Conflict(
                    f'Conflict. The container name "/{one.name}" is already in use by container "{one.id}". You have '
                    "to remove (or rename) that container to be able to reuse that name."
                )

    def image(self, ref: str) -> FakeImage:
        named = ref if ":" in ref.rpartition("/")[2] else f"{ref}:latest"
        for image in self.images.values():
            if named in image.tags or image.id == ref or image.id.removeprefix("sha256:").startswith(ref):
                return image
        raise errors.NotFound(f"No such image: {named}")

    def exec(self, exec_id: str) -> FakeExec:
        for container in self.containers.values():
            if exec_id in container.execs:
                return container.execs[exec_id]
        raise errors.NotFound(f"No such exec instance: {exec_id}")


class _Containers(wire.ContainersBase):
    def __init__(self, engine: FakeManager) -> None:
        self._engine = engine

    async def create(self, message: wire.CreateContainerRequest) -> wire.CreateContainerResponse:
        assert message.spec is not None
        spec = to_model(ContainerSpec, message.spec)
        image = self._engine.image(spec.image)
        self._engine.check_name(message.name)
        container_id = secrets.token_hex(32)
        container = FakeContainer(self._engine, container_id, message.name or f"fake_{container_id[:6]}", spec, image)
        self._engine.containers[container_id] = container
        self._engine.journal.add("container", "create", container_id, name=container.name, image=spec.image)
        discarded = spec.network_mode == "host" and bool(spec.ports)
        warnings = ["Published ports are discarded when using host network mode"] if discarded else []
        return wire.CreateContainerResponse(id=container_id, warnings=warnings)

    async def list(self, message: wire.ListContainersRequest) -> wire.ListContainersResponse:
        self._engine.measured |= message.size
        filters = {name: values.items for name, values in message.filters.items()}
        found = [
            one
            for one in sorted(self._engine.containers.values(), key=lambda one: -one.created_at)
            if (message.all or one.phase.alive or "status" in filters) and _matches(one, filters)
        ]
        return wire.ListContainersResponse(containers=[one.summary() for one in found[: message.limit or None]])

    async def inspect(self, message: wire.InspectContainerRequest) -> wire.InspectContainerResponse:
        found = self._engine.find(message.ref).message()
        if message.size:
            found.size_rw, found.size_root = 10, 20
        return wire.InspectContainerResponse(container=found)

    async def stdio(self, message: wire.StdioRequest) -> wire.StdioResponse:
        found = self._engine.find(message.ref)
        await found.listen()
        return wire.StdioResponse(
            id=found.id, socket=found.socket, tty=found.spec.tty, open_stdin=found.spec.open_stdin
        )

    async def start(self, message: wire.StartContainerRequest) -> wire.StartContainerResponse:
        try:
            await self._engine.find(message.ref).start()
        except errors.NotModified:
            return wire.StartContainerResponse(already_running=True)
        except errors.LaunchFailed as failure:
            return wire.StartContainerResponse(failure=_failure(failure))
        return wire.StartContainerResponse()

    async def stop(self, message: wire.StopContainerRequest) -> wire.StopContainerResponse:
        try:
            await self._engine.find(message.ref).stop(message.signal, message.timeout)
        except errors.NotModified:
            return wire.StopContainerResponse(not_running=True)
        return wire.StopContainerResponse()

    async def restart(self, message: wire.RestartContainerRequest) -> wire.StartContainerResponse:
        found = self._engine.find(message.ref)
        if found.phase.alive:
            await found.stop(message.signal, message.timeout)
        await found.start()
        return wire.StartContainerResponse()

    async def kill(self, message: wire.KillContainerRequest) -> wire.KillContainerResponse:
        self._engine.find(message.ref).kill(message.signal)
        return wire.KillContainerResponse()

    async def pause(self, message: wire.PauseContainerRequest) -> wire.PauseContainerResponse:
        found = self._engine.find(message.ref)
        found.kill("STOP")
        found.phase = Phase.PAUSED
        return wire.PauseContainerResponse()

    async def unpause(self, message: wire.UnpauseContainerRequest) -> wire.UnpauseContainerResponse:
        found = self._engine.find(message.ref)
        if found.phase is not Phase.PAUSED:
            raise errors.Internal(f"Container {found.id} is not paused")
        found.kill("CONT")
        found.phase = Phase.RUNNING
        return wire.UnpauseContainerResponse()

    async def wait(self, message: wire.WaitContainerRequest) -> AsyncIterator[wire.WaitContainerResponse]:
        found = self._engine.find(message.ref)
        if message.condition == "not-running" and not found.phase.alive:
            yield wire.WaitContainerResponse(registered=True)
            yield wire.WaitContainerResponse(exit_code=found.exit_code)
            return
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        found.waiters.append((message.condition, future))
        yield wire.WaitContainerResponse(registered=True)
        yield wire.WaitContainerResponse(exit_code=await future)

    async def resize(self, message: wire.ResizeContainerRequest) -> wire.ResizeContainerResponse:
        found = self._engine.find(message.ref)
        if not found.phase.alive:
            raise errors.Conflict(f"cannot resize a stopped container: container {found.id} is not running")
        found.process.resize(message.height, message.width)
        return wire.ResizeContainerResponse()

    async def rename(self, message: wire.RenameContainerRequest) -> wire.RenameContainerResponse:
        found = self._engine.find(message.ref)
        self._engine.check_name(normal(message.name))
        found.name = message.name
        return wire.RenameContainerResponse()

    async def remove(self, message: wire.RemoveContainerRequest) -> wire.RemoveContainerResponse:
        found = self._engine.find(message.ref)
        if found.phase.alive:
            if not message.force:
                raise errors.Conflict(
                    f"You cannot remove a running container {found.id}. Stop the container before attempting removal "
                    "or force remove"
                )
            found.kill("KILL")
            await found.process.exited.wait()
        await found.remove()
        return wire.RemoveContainerResponse()

    async def prune(self, message: wire.PruneContainersRequest) -> wire.PruneContainersResponse:
        gone = [one for one in self._engine.containers.values() if not one.phase.alive]
        for one in gone:
            await one.remove()
        return wire.PruneContainersResponse(ids=[one.id for one in gone], space_reclaimed=len(gone))

    async def top(self, message: wire.TopRequest) -> wire.TopResponse:
        found = self._engine.find(message.ref)
        if not found.phase.alive:
            raise errors.Conflict(f"Container {found.id} is not running")
        row = ["root", str(found.process.pid), "1", "0", "00:00", "?", "00:00:00", " ".join(found.argv)]
        titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        return wire.TopResponse(titles=titles, processes=[types.StringList(items=row)])


class _Execs(wire.ExecsBase):
    def __init__(self, engine: FakeManager) -> None:
        self._engine = engine

    async def create(self, message: wire.CreateExecRequest) -> wire.CreateExecResponse:
        found = self._engine.find(message.ref)
        if not found.phase.alive:
            raise errors.Conflict(f"Container {found.id} is not running")
        if found.phase is Phase.PAUSED:
            raise errors.Conflict(f"container {found.id} is paused, unpause the container before exec")
        assert message.spec is not None
        self._engine.asked_creates.append(found.id)
        where = secrets.token_hex(6) if self._engine.expecting == "away" else found.id[:12]
        return wire.CreateExecResponse(id=found.add_exec(message.spec, where))

    async def start(self, message: wire.StartExecRequest) -> wire.StartExecResponse:
        one = self._engine.exec(message.id)
        if self._engine.ends_at_exec:
            if one.id in self._engine.asked_starts:
                raise errors.Conflict(f"Container {one.container.id} is not running")
            self._engine.asked_starts.append(one.id)
            return wire.StartExecResponse(socket="/nowhere", spec=one.spec)
        self._engine.asked_starts.append(one.id)
        if one.started:
            raise errors.Conflict(f"exec command {one.id} has already run")
        if message.detach:
            try:
                await one.container.start_exec(one, stdin=False, writer=None)
            except errors.LaunchFailed as failure:
                return wire.StartExecResponse(failure=_failure(failure))
        return wire.StartExecResponse(socket=one.container.socket, tty=one.spec.tty)

    async def inspect(self, message: wire.InspectExecRequest) -> wire.InspectExecResponse:
        one = self._engine.exec(message.id)
        if message.asked:
            self._engine.unanswered.append(one.id)
        return wire.InspectExecResponse(
            id=one.id,
            container_id=one.container.id,
            spec=one.spec,
            running=one.started and one.exit_code is None,
            started=one.started,
            exit_code=one.exit_code,
            pid=one.process.pid,
        )

    async def resize(self, message: wire.ResizeExecRequest) -> wire.ResizeExecResponse:
        self._engine.exec(message.id).process.resize(message.height, message.width)
        return wire.ResizeExecResponse()


class _Images(wire.ImagesBase):
    def __init__(self, engine: FakeManager) -> None:
        self._engine = engine

    async def pull(self, message: wire.PullRequest) -> AsyncIterator[wire.Progress]:
        image = self._engine.pullable.get(message.reference)
        if image is None:
            name = message.reference.partition(":")[0]
            raise errors.NotFound(
                f"pull access denied for {name}, repository does not exist or may require 'docker login': denied: "
                "requested access to the resource is denied"
            )
        name, _, tag = message.reference.partition(":")
        yield wire.Progress(id=tag, status=f"Pulling from library/{name}")
        yield wire.Progress(id="0123456789ab", status="Downloading", current=50, total=100)
        yield wire.Progress(id="0123456789ab", status="Pull complete")
        self._engine.images[message.reference] = image
        yield wire.Progress(status="Digest: " + image.id)
        yield wire.Progress(status=f"Status: Downloaded newer image for {message.reference}")

    async def push(self, message: wire.PushRequest) -> AsyncIterator[wire.Progress]:
        image = self._engine.image(message.reference)
        yield wire.Progress(status=f"The push refers to repository [{message.reference.rpartition(':')[0]}]")
        if message.auth is not None and message.auth.password == "wrong":
            yield wire.Progress(error="unauthorized: authentication required", error_kind="Unauthorized")
            return
        yield wire.Progress(status=f"latest: digest: {image.id} size: 528")
        aux = {"Tag": "latest", "Digest": image.id, "Size": 528}
        yield wire.Progress(aux=json.dumps(aux).encode())

    async def list(self, message: wire.ListImagesRequest) -> wire.ListImagesResponse:
        images = {image.id: image for image in self._engine.images.values()}.values()
        return wire.ListImagesResponse(
            images=[
                wire.ImageSummary(
                    id=image.id,
                    repo_tags=image.tags,
                    repo_digests=[f"{image.tags[0].partition(':')[0]}@{image.id}"],
                    created_at=image.created_at,
                    size=image.size,
                )
                for image in images
            ]
        )

    async def inspect(self, message: wire.InspectImageRequest) -> wire.Image:
        image = self._engine.image(message.ref)
        config = {
            "created": "2023-11-14T22:13:20Z",
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": [f"PATH={PATH}"], "Cmd": list(image.command)},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "d" * 64]},
            "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "made up"}],
        }
        return wire.Image(id=image.id, repo_tags=image.tags, size=image.size, config=json.dumps(config).encode())

    async def history(self, message: wire.InspectImageRequest) -> wire.HistoryResponse:
        image = self._engine.image(message.ref)
        entry = wire.HistoryEntry(
            id=image.id, created_at=image.created_at, created_by="made up", tags=image.tags, size=image.size
        )
        return wire.HistoryResponse(entries=[entry])

    async def tag(self, message: wire.TagRequest) -> wire.TagResponse:
        image = self._engine.image(message.ref)
        image.tags.append(message.target)
        self._engine.images[message.target] = image
        return wire.TagResponse()

    async def remove(self, message: wire.RemoveImageRequest) -> wire.RemoveImageResponse:
        image = self._engine.image(message.ref)
        named = message.ref if ":" in message.ref else f"{message.ref}:latest"
        del self._engine.images[named]
        image.tags.remove(named)
        items = [wire.RemovedImage(untagged=named)]
        return wire.RemoveImageResponse(items=items if image.tags else [*items, wire.RemovedImage(deleted=image.id)])

    async def prune(self, message: wire.PruneImagesRequest) -> wire.PruneImagesResponse:
        return wire.PruneImagesResponse()

    async def load(self, messages: AsyncIterator[wire.LoadRequest]) -> AsyncIterator[wire.Progress]:
        self._engine.loaded = b"".join([message.data async for message in messages])
        if not self._engine.loaded.startswith(b"fake tar"):
            raise errors.InvalidArgument("archive/tar: invalid tar header")
        yield wire.Progress(stream="Loaded image: busybox:latest\n")

    async def save(self, message: wire.SaveRequest) -> AsyncIterator[wire.SaveResponse]:
        for ref in message.refs:
            self._engine.image(ref)
        yield wire.SaveResponse(data=b"fake tar of ")
        yield wire.SaveResponse(data=" ".join(message.refs).encode())


class _System(wire.SystemBase):
    def __init__(self, engine: FakeManager) -> None:
        self._engine = engine

    async def info(self, message: wire.InfoRequest) -> wire.InfoResponse:
        containers = self._engine.containers.values()
        running = sum(one.phase.alive for one in containers)
        return wire.InfoResponse(
            engine_id="fake",
            containers=len(containers),
            running=running,
            stopped=len(containers) - running,
            images=len(self._engine.images),
            data_dir=str(self._engine.instance.data),
            cgroup_version=1,
            mirrors=["http://127.0.0.1:5000/"],
            logging_driver="local",
            http_proxy="http://proxy.test:3128",
        )

    async def events(self, message: wire.EventsRequest) -> AsyncIterator[wire.Event]:
        journal = self._engine.journal
        filters = {name: values.items for name, values in message.filters.items()}
        told = 0 if message.since is not None else len(journal.entries)
        yield wire.Event(ready=True)
        while True:
            fresh, told = journal.entries[told:], len(journal.entries)
            for event in fresh:
                if event.time >= (message.since or 0) and _event_matches(event, filters):
                    yield event
            if message.until is not None and time.time_ns() >= message.until:
                return
            async with journal.grown:
                if len(journal.entries) > told:
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if message.until is None else 0.05):
                        await journal.grown.wait()

    async def operations(self, message: wire.OperationsRequest) -> wire.OperationsResponse:
        return wire.OperationsResponse()

    async def disk_usage(self, message: wire.DiskUsageRequest) -> wire.DiskUsageResponse:
        return wire.DiskUsageResponse(layers_size=8_000_000)


def _failure(failure: errors.LaunchFailed) -> wire.LaunchFailure:
    return wire.LaunchFailure(message=str(failure), step=failure.step, errno=failure.errno, exit_code=failure.exit_code)


def _matches(one: FakeContainer, filters: Mapping[str, list[str]]) -> bool:
    labels = {*one.spec.labels, *(f"{key}={value}" for key, value in one.spec.labels.items())}
    return (
        all(label in labels for label in filters.get("label", ()))
        and ("name" not in filters or any(name in one.name for name in filters["name"]))
        and ("status" not in filters or one.phase.value in filters["status"])
        and ("id" not in filters or any(one.id.startswith(prefix) for prefix in filters["id"]))
    )


def _event_matches(event: wire.Event, filters: Mapping[str, list[str]]) -> bool:
    names = (event.actor_id, event.attributes.get("name", ""))
    return (
        event.type in filters.get("type", (event.type,))
        and event.action in filters.get("event", (event.action,))
        and (
            "container" not in filters
            or any(event.actor_id.startswith(ref) or ref in names for ref in filters["container"])
        )
    )
