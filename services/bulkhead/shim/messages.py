"""protos/bulkhead/shim/v1/shim.proto as lean messages; a contract test holds them against the generated ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from bulkhead.wire.ttrpc_protobuf import BOOL, BYTES, MESSAGE, SIGNED, STRING, UNSIGNED, Field, Message

SERVICE = "bulkhead.shim.v1.Shim"


@dataclass(slots=True, kw_only=True)
class Empty(Message):
    """Every request and response that has no field."""


@dataclass(slots=True, kw_only=True)
class Launch(Message):
    message: str = ""
    step: str = ""
    errno: int = 0
    exit_code: int = 0
    FIELDS: ClassVar = (
        Field(1, "message", STRING),
        Field(2, "step", STRING),
        Field(3, "errno", SIGNED),
        Field(4, "exit_code", SIGNED),
    )


@dataclass(slots=True, kw_only=True)
class StateRequest(Message):
    execs: bool = False
    FIELDS: ClassVar = (Field(1, "execs", BOOL),)


@dataclass(slots=True, kw_only=True)
class KnownExec(Message):
    record: bytes = b""
    exited_at: int = 0
    began_at: int = 0
    exit_code: int = 0
    FIELDS: ClassVar = (
        Field(1, "record", BYTES),
        Field(2, "exited_at", SIGNED),
        Field(3, "began_at", SIGNED),
        Field(4, "exit_code", SIGNED),
    )


@dataclass(slots=True, kw_only=True)
class StateResponse(Message):
    phase: str = ""
    pid: int = 0
    start_time: int = 0
    exit_code: int | None = None
    started_at: int = 0
    exited_at: int = 0
    oom_killed: bool = False
    shim_pid: int = 0
    exec_ids: list[str] = field(default_factory=list)
    losses: bytes = b""
    unattended: bool = False
    execs: list[KnownExec] = field(default_factory=list)
    oom_kills: int = 0
    FIELDS: ClassVar = (
        Field(1, "phase", STRING),
        Field(2, "pid", SIGNED),
        Field(3, "start_time", UNSIGNED),
        Field(4, "exit_code", SIGNED, optional=True),
        Field(5, "started_at", SIGNED),
        Field(6, "exited_at", SIGNED),
        Field(7, "oom_killed", BOOL),
        Field(8, "shim_pid", SIGNED),
        Field(9, "exec_ids", STRING, repeated=True),
        Field(10, "losses", BYTES),
        Field(11, "unattended", BOOL),
        Field(12, "execs", MESSAGE, KnownExec, repeated=True),
        Field(13, "oom_kills", SIGNED),
    )


@dataclass(slots=True, kw_only=True)
class OverlayRootfs(Message):
    lower: list[str] = field(default_factory=list)
    upper: str = ""
    work: str = ""
    volatile: bool = False
    FIELDS: ClassVar = (
        Field(1, "lower", STRING, repeated=True),
        Field(2, "upper", STRING),
        Field(3, "work", STRING),
        Field(4, "volatile", BOOL),
    )


@dataclass(slots=True, kw_only=True)
class LogOptions(Message):
    driver: str = ""
    path: str = ""
    max_size: int = 0
    max_file: int = 0
    compress: bool = False
    attributes: bytes = b""
    non_blocking: bool = False
    max_buffer: int = 0
    destination: bytes = b""
    FIELDS: ClassVar = (
        Field(1, "driver", STRING),
        Field(2, "path", STRING),
        Field(3, "max_size", SIGNED),
        Field(4, "max_file", SIGNED),
        Field(5, "compress", BOOL),
        Field(6, "attributes", BYTES),
        Field(7, "non_blocking", BOOL),
        Field(8, "max_buffer", SIGNED),
        Field(9, "destination", BYTES),
    )


@dataclass(slots=True, kw_only=True)
class Network(Message):
    path: str = ""
    inode: int = 0
    FIELDS: ClassVar = (
        Field(1, "path", STRING),
        Field(2, "inode", UNSIGNED),
    )


@dataclass(slots=True, kw_only=True)
class CreateRequest(Message):
    rootfs: OverlayRootfs | None = None
    log: LogOptions | None = None
    open_stdin: bool = False
    stdin_once: bool = False
    height: int = 0
    width: int = 0
    runtime: list[str] = field(default_factory=list)
    planned: bytes = b""
    start: bool = False
    network: Network | None = None
    FIELDS: ClassVar = (
        Field(1, "rootfs", MESSAGE, OverlayRootfs),
        Field(2, "log", MESSAGE, LogOptions),
        Field(3, "open_stdin", BOOL),
        Field(4, "stdin_once", BOOL),
        Field(5, "height", UNSIGNED),
        Field(6, "width", UNSIGNED),
        Field(7, "runtime", STRING, repeated=True),
        Field(8, "planned", BYTES),
        Field(9, "start", BOOL),
        Field(10, "network", MESSAGE, Network),
    )


@dataclass(slots=True, kw_only=True)
class CreateResponse(Message):
    pid: int = 0
    start_time: int = 0
    failure: Launch | None = None
    warnings: list[str] = field(default_factory=list)
    started_at: int = 0
    FIELDS: ClassVar = (
        Field(1, "pid", SIGNED),
        Field(2, "start_time", UNSIGNED),
        Field(3, "failure", MESSAGE, Launch),
        Field(4, "warnings", STRING, repeated=True),
        Field(5, "started_at", SIGNED),
    )


@dataclass(slots=True, kw_only=True)
class StartResponse(Message):
    failure: Launch | None = None
    started_at: int = 0
    pid: int = 0
    FIELDS: ClassVar = (
        Field(1, "failure", MESSAGE, Launch),
        Field(2, "started_at", SIGNED),
        Field(3, "pid", SIGNED),
    )


@dataclass(slots=True, kw_only=True)
class ExecReference(Message):
    """ExecStartRequest, ExecStateRequest and CloseStdinRequest; empty is the container."""

    exec_id: str = ""
    FIELDS: ClassVar = (Field(1, "exec_id", STRING),)


@dataclass(slots=True, kw_only=True)
class WaitRequest(Message):
    exec_id: str = ""
    begun: bool = False
    for_record: bool = False
    FIELDS: ClassVar = (Field(1, "exec_id", STRING), Field(2, "begun", BOOL), Field(3, "for_record", BOOL))


@dataclass(slots=True, kw_only=True)
class WaitResponse(Message):
    exit_code: int = 0
    exited_at: int = 0
    oom_killed: bool = False
    losses: bytes = b""
    leaves: bool = False
    oom_kills: int = 0
    FIELDS: ClassVar = (
        Field(1, "exit_code", SIGNED),
        Field(2, "exited_at", SIGNED),
        Field(3, "oom_killed", BOOL),
        Field(4, "losses", BYTES),
        Field(5, "leaves", BOOL),
        Field(6, "oom_kills", SIGNED),
    )


@dataclass(slots=True, kw_only=True)
class KillRequest(Message):
    exec_id: str = ""
    signal: int = 0
    all: bool = False
    FIELDS: ClassVar = (Field(1, "exec_id", STRING), Field(2, "signal", SIGNED), Field(3, "all", BOOL))


@dataclass(slots=True, kw_only=True)
class PidsResponse(Message):
    pids: list[int] = field(default_factory=list)
    FIELDS: ClassVar = (Field(1, "pids", SIGNED, repeated=True),)


@dataclass(slots=True, kw_only=True)
class ExecCreateRequest(Message):
    exec_id: str = ""
    process: bytes = b""
    open_stdin: bool = False
    height: int = 0
    width: int = 0
    planned: bytes = b""
    lasting: bool = False
    record: bytes = b""
    FIELDS: ClassVar = (
        Field(1, "exec_id", STRING),
        Field(2, "process", BYTES),
        Field(3, "open_stdin", BOOL),
        Field(4, "height", UNSIGNED),
        Field(5, "width", UNSIGNED),
        Field(6, "planned", BYTES),
        Field(7, "lasting", BOOL),
        Field(8, "record", BYTES),
    )


@dataclass(slots=True, kw_only=True)
class ExecCreateResponse(Message):
    began_at: int = 0
    exited_at: int = 0
    exit_code: int = 0
    FIELDS: ClassVar = (
        Field(1, "began_at", SIGNED),
        Field(2, "exited_at", SIGNED),
        Field(3, "exit_code", SIGNED),
    )


@dataclass(slots=True, kw_only=True)
class NewExecsRequest(Message):
    pattern: bytes = b""
    FIELDS: ClassVar = (Field(1, "pattern", BYTES),)


@dataclass(slots=True, kw_only=True)
class ExecStateResponse(Message):
    phase: str = ""
    pid: int = 0
    exit_code: int | None = None
    FIELDS: ClassVar = (
        Field(1, "phase", STRING),
        Field(2, "pid", SIGNED),
        Field(3, "exit_code", SIGNED, optional=True),
    )


@dataclass(slots=True, kw_only=True)
class ServeNamesRequest(Message):
    directory: str = ""
    FIELDS: ClassVar = (Field(1, "directory", STRING),)


@dataclass(slots=True, kw_only=True)
class RelayWay(Message):
    protocol: str = ""
    host: str = ""
    host_port: int = 0
    address: str = ""
    port: int = 0
    FIELDS: ClassVar = (
        Field(1, "protocol", STRING),
        Field(2, "host", STRING),
        Field(3, "host_port", UNSIGNED),
        Field(4, "address", STRING),
        Field(5, "port", UNSIGNED),
    )


@dataclass(slots=True, kw_only=True)
class RelayRequest(Message):
    ways: list[RelayWay] = field(default_factory=list)
    FIELDS: ClassVar = (Field(1, "ways", MESSAGE, RelayWay, repeated=True),)


@dataclass(slots=True, kw_only=True)
class HealthRequest(Message):
    after: int = 0
    FIELDS: ClassVar = (Field(1, "after", SIGNED),)


@dataclass(slots=True, kw_only=True)
class HealthResponse(Message):
    record: bytes = b""
    FIELDS: ClassVar = (Field(1, "record", BYTES),)


@dataclass(slots=True, kw_only=True)
class ResizePtyRequest(Message):
    exec_id: str = ""
    height: int = 0
    width: int = 0
    FIELDS: ClassVar = (Field(1, "exec_id", STRING), Field(2, "height", UNSIGNED), Field(3, "width", UNSIGNED))
