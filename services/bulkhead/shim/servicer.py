"""The shim's edge: protos/bulkhead/shim/v1/shim.proto, message in, use-case, message out."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

from bulkhead.errors import Conflict, Internal, InvalidArgument, LaunchFailed, NotFound
from bulkhead.shim import messages
from bulkhead.shim.container import Container
from bulkhead.shim.create_options import CreateOptions
from bulkhead.shim.execs import Exec, ExecPhase, Execs
from bulkhead.shim.exits import ExitRecord, encode_losses
from bulkhead.shim.lifecycle import Phase
from bulkhead.shim.messages import Empty
from bulkhead.shim.new_execs import NewExecs, known
from bulkhead.shim.ports import Rootfs
from bulkhead.shim.sinks import LogTarget
from bulkhead.wire.ttrpc_server import Call, Services

_DRIVERS = ("json-file", "local", "syslog", "journald", "none", "")


class ShimServicer:
    """One method per RPC. `leave(done)` ends the container, gives everything back, calls `done`, and goes.

    `depart` does the same soon, once the container has ended, and hangs up on everybody. `is_attended`: whether anybody
    has come for the container's streams.
    """

    def __init__(
        self,
        container: Container,
        execs: Execs,
        new_execs: NewExecs,
        leave: Callable[[Callable[[], None]], None],
        depart: Callable[[], None],
        is_attended: Callable[[], bool],
    ) -> None:
        self._container = container
        self._execs = execs
        self._new_execs = new_execs
        self._leave = leave
        self._depart = depart
        self._is_attended = is_attended

    def services(self) -> Services:
        """The table for the server."""
        return {
            messages.SERVICE: {
                "State": (messages.StateRequest, self._state),
                "Create": (messages.CreateRequest, self._create),
                "Start": (Empty, self._start),
                "Wait": (messages.WaitRequest, self._wait),
                "Kill": (messages.KillRequest, self._kill),
                "Pause": (Empty, self._pause),
                "Resume": (Empty, self._resume),
                "Pids": (Empty, self._pids),
                "ExecCreate": (messages.ExecCreateRequest, self._exec_create),
                "NewExecs": (messages.NewExecsRequest, self._tell_new_execs),
                "ExecStart": (messages.ExecReference, self._exec_start),
                "ExecState": (messages.ExecReference, self._exec_state),
                "ResizePty": (messages.ResizePtyRequest, self._resize),
                "CloseStdin": (messages.ExecReference, self._close_stdin),
                "ServeNames": (messages.ServeNamesRequest, self._serve_names),
                "Relay": (messages.RelayRequest, self._relay),
                "Health": (messages.HealthRequest, self._health),
                "Shutdown": (Empty, self._shutdown),
            }
        }

    def _state(self, request: messages.StateRequest, call: Call) -> None:
        container, ended = self._container, self._container.exit
        call.reply(
            messages.StateResponse(
                phase=container.phase.value,
                pid=container.pid,
                start_time=container.start_time,
                exit_code=ended.exit_code if ended else None,
                started_at=container.started_at,
                exited_at=ended.exited_at if ended else 0,
                oom_killed=bool(ended and ended.oom_killed),
                oom_kills=ended.oom_kills if ended else 0,
                shim_pid=os.getpid(),
                exec_ids=self._execs.ids(),
                losses=encode_losses(ended.losses if ended else container.losses),
                unattended=not self._is_attended(),
                execs=self._known_execs() if request.execs else [],
            )
        )

    def _known_execs(self) -> list[messages.KnownExec]:
        return [known(one) for one in self._execs.on_record()]

    def _create(self, request: messages.CreateRequest, call: Call) -> None:
        try:
            at_once = request.start or request.network is not None
            task = self._container.create(_options(request), parked=not at_once)
            started_at = self._begun() if at_once else 0
        except LaunchFailed as failure:
            call.reply(messages.CreateResponse(failure=_launch(failure)))
            return
        warnings = list(task.warnings)
        call.reply(
            messages.CreateResponse(pid=task.pid, start_time=task.start_time, warnings=warnings, started_at=started_at)
        )

    def _begun(self) -> int:
        """When what has just been created began. Whoever has ended its process says nothing about the request."""
        try:
            return self._container.start()
        except (Conflict, NotFound) as error:
            text = f"cannot start the container: its process was ended before its program ran: {error}"
            raise Internal(text) from error

    def _start(self, _request: Empty, call: Call) -> None:
        try:
            started_at = self._container.start()
        except LaunchFailed as failure:
            call.reply(messages.StartResponse(failure=_launch(failure)))
            return
        call.reply(messages.StartResponse(started_at=started_at, pid=self._container.pid))

    def _wait(self, request: messages.WaitRequest, call: Call) -> None:
        def container_exited(record: ExitRecord) -> None:
            # Who is not there to hear of the exit may come back and ask; so may his successor, where it is on no disk.
            owes = self._container.telling.owes_record or self._new_execs.owes
            leaves = request.for_record and call.open and not self._execs.awaited and not owes
            call.reply(
                messages.WaitResponse(
                    exit_code=record.exit_code,
                    exited_at=record.exited_at,
                    oom_killed=record.oom_killed,
                    losses=encode_losses(record.losses),
                    leaves=leaves,
                    oom_kills=record.oom_kills,
                )
            )
            if leaves:
                self._depart()

        def exec_exited(one: Exec) -> None:
            call.reply(messages.WaitResponse(exit_code=one.exit_code or 0, exited_at=one.exited_at))

        if request.exec_id and request.begun:
            self._execs.when_begun(request.exec_id, functools.partial(_tell_begun, call))
        elif request.exec_id:
            self._execs.when_exited(request.exec_id, exec_exited)
        else:
            self._container.when_exited(container_exited, lambda: request.for_record and call.open)

    def _kill(self, request: messages.KillRequest, call: Call) -> None:
        if request.exec_id:
            self._execs.kill(request.exec_id, request.signal)
        else:
            self._container.kill(request.signal, everyone=request.all)
        call.reply(Empty())

    def _pause(self, _request: Empty, call: Call) -> None:
        self._container.pause()
        call.reply(Empty())

    def _resume(self, _request: Empty, call: Call) -> None:
        self._container.resume()
        call.reply(Empty())

    def _pids(self, _request: Empty, call: Call) -> None:
        call.reply(messages.PidsResponse(pids=self._container.pids()))

    def _exec_create(self, request: messages.ExecCreateRequest, call: Call) -> None:
        self._execs.register(
            request.exec_id,
            request.process,
            open_stdin=request.open_stdin,
            height=request.height,
            width=request.width,
            planned=request.planned,
            record=request.record,
        )
        if request.lasting:
            self._execs.when_lasting(request.exec_id, functools.partial(self._tell_lasting, call))
        else:
            call.reply(Empty())

    def _tell_lasting(self, call: Call, one: Exec) -> None:
        """Who is asleep asks for its end too late if we die, or finds only that we have."""
        if one.phase is ExecPhase.RUNNING and one.record:
            one.lasting.append(self._new_execs.leave_behind)
        elif one.record:
            self._new_execs.leave_behind(one)
        _tell_lasting(call, one)

    def _tell_new_execs(self, request: messages.NewExecsRequest, call: Call) -> None:
        self._new_execs.allow(request.pattern, call)

    def _exec_start(self, request: messages.ExecReference, call: Call) -> None:
        one = self._execs.startable(request.exec_id)
        try:
            self._execs.start(one, stdin=False, stdout=False, stderr=False)
        except LaunchFailed as failure:
            call.reply(messages.StartResponse(failure=_launch(failure)))
            return
        call.reply(messages.StartResponse(started_at=one.started_at, pid=one.pid))

    def _exec_state(self, request: messages.ExecReference, call: Call) -> None:
        one = self._execs.find(request.exec_id)
        call.reply(messages.ExecStateResponse(phase=one.phase.value, pid=one.pid, exit_code=one.exit_code))

    def _resize(self, request: messages.ResizePtyRequest, call: Call) -> None:
        streams = self._execs.find(request.exec_id).streams if request.exec_id else self._container.streams
        streams.resize(request.height, request.width)
        call.reply(Empty())

    def _close_stdin(self, request: messages.ExecReference, call: Call) -> None:
        streams = self._execs.find(request.exec_id).streams if request.exec_id else self._container.streams
        streams.close_stdin()
        call.reply(Empty())

    def _serve_names(self, request: messages.ServeNamesRequest, call: Call) -> None:
        self._container.serve_names(request.directory)
        call.reply(Empty())

    def _relay(self, request: messages.RelayRequest, call: Call) -> None:
        self._container.relay([(way.protocol, way.host, way.host_port, way.address, way.port) for way in request.ways])
        call.reply(Empty())

    def _health(self, request: messages.HealthRequest, call: Call) -> None:
        monitor = self._container.health
        if monitor is None:
            raise NotFound("the container has no health check")
        from bulkhead.model.health import encode_health

        monitor.when_news(
            request.after,
            lambda health: call.reply(messages.HealthResponse(record=encode_health(health))),
        )

    def _shutdown(self, _request: Empty, call: Call) -> None:
        if self._container.phase is Phase.NEW:
            self._execs.conclude_all()
        self._leave(lambda: call.reply(Empty()))


def _options(request: messages.CreateRequest) -> CreateOptions:
    rootfs, log = request.rootfs, request.log
    if log is not None and log.driver not in _DRIVERS:
        raise InvalidArgument(f"cannot create container: unknown log driver {log.driver!r}")
    return CreateOptions(
        rootfs=Rootfs(lower=tuple(rootfs.lower), upper=rootfs.upper, work=rootfs.work, volatile=rootfs.volatile)
        if rootfs
        else None,
        log=_target(log) if log is not None and log.path and log.driver not in ("none", "") else None,
        destination=log.destination if log is not None else b"",
        log_buffer=log.max_buffer if log is not None else 0,
        open_stdin=request.open_stdin,
        stdin_once=request.stdin_once,
        height=request.height,
        width=request.width,
        runtime=tuple(request.runtime),
        planned=request.planned,
        network=None if request.network is None else (request.network.path, request.network.inode),
    )


def _target(log: messages.LogOptions) -> LogTarget:
    if not log.path.startswith("/") or log.max_size < 0:
        raise InvalidArgument(f"cannot create container: log path {log.path!r} or size {log.max_size} is no good")
    return LogTarget(
        path=log.path,
        max_size=log.max_size,
        max_file=max(1, log.max_file),
        compress=log.compress,
        attributes=log.attributes,
        non_blocking=log.non_blocking,
        max_buffer=max(0, log.max_buffer),
        verbatim=log.driver not in ("", "json-file"),
    )


def _tell_begun(call: Call, one: Exec) -> None:
    if one.phase is ExecPhase.CREATED:
        call.fail(_forgotten(one))
    else:
        call.reply(messages.WaitResponse())


def _tell_lasting(call: Call, one: Exec) -> None:
    if one.phase is ExecPhase.CREATED:
        call.fail(_forgotten(one))
    else:
        code = one.exit_code or 0
        call.reply(messages.ExecCreateResponse(began_at=one.started_at, exited_at=one.exited_at, exit_code=code))


def _forgotten(one: Exec) -> Conflict:
    return Conflict(f"exec {one.exec_id} was forgotten before it ran")


def _launch(failure: LaunchFailed) -> messages.Launch:
    return messages.Launch(message=str(failure), step=failure.step, errno=failure.errno, exit_code=failure.exit_code)
