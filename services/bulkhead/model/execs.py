"""A further process in a running container: what was asked (`ExecSpec`) and what became of it (`Exec`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ExecPhase(Enum):
    """An exec runs once."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecSpec:
    """A second process of a container; fields are spelt as in protos/bulkhead/manager/v1/containers.proto."""

    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    tty: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    privileged: bool = False
    detach_keys: str = ""
    height: int = 0
    width: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exec:
    """An exec's record; times in Unix nanoseconds, 0 = never."""

    id: str
    container_id: str
    spec: ExecSpec
    phase: ExecPhase = ExecPhase.CREATED
    pid: int = 0
    exit_code: int | None = None
    created_at: int = 0
    exited_at: int = 0
