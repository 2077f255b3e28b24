"""The facts a shim leaves on disk, so that any process's death loses nothing. Beside the bundle:

    <data_dir>/task.json         who runs: pid, start time, boot; rewritten at create, start, pause
    <data_dir>/exit.json         how it ended; durable before anybody hears of it but who puts that on record himself
    <data_dir>/.exit.json.reserved   blocks of the exit record while the container lives

Times are Unix nanoseconds, 0 is never.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from bulkhead.linux import atomicfile
from bulkhead.model.losses import Loss

# What a container is reported with whose end nobody saw, as Docker does.
UNKNOWN_EXIT = 255
# The attributes of a log are labels, as many as a message bears.
_LIMIT = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRecord:
    """How the container's first process ended. `started_at` is 0 when its exec failed or never came."""

    exit_code: int
    exited_at: int
    started_at: int = 0
    oom_killed: bool = False
    pid: int = 0
    losses: tuple[Loss, ...] = ()
    oom_kills: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """What a successor needs to find the container again and to go on as its shim did.

    `pipes` are the inodes of stdout and stderr, 0 where there is none.
    """

    pid: int
    start_time: int
    boot_id: str
    started_at: int = 0
    paused: bool = False
    log_driver: str = "none"
    log_path: str = ""
    log_max_size: int = 0
    log_max_file: int = 1
    log_compress: bool = False
    log_attributes: str = ""
    log_non_blocking: bool = False
    log_max_buffer: int = 0
    log_destination: str = ""
    open_stdin: bool = False
    stdin_once: bool = False
    cgroup: str = ""
    own_pids: bool = False
    runtime: tuple[str, ...] = ()
    terminal: bool = False
    pipes: tuple[int, ...] = ()
    losses: tuple[Loss, ...] = ()


RecordT = TypeVar("RecordT", ExitRecord, TaskRecord)


class Facts:
    """Reads and writes a container's records."""

    def __init__(self, data_dir: str) -> None:
        self._task = f"{data_dir}/task.json"
        self._exit = atomicfile.Reserved(data_dir, "exit.json")

    def begin(self) -> None:
        """Forget an earlier life, and take the blocks of this life's exit record. Raises OSError."""
        self._forget_task()
        atomicfile.remove(self._exit.path, durable=False)
        self._exit.reserve()

    def abandon(self) -> None:
        """There will be no exit: the launch failed."""
        self._forget_task()
        self._exit.release()

    def write_task(self, record: TaskRecord) -> None:
        """Not synced: a record that a power loss takes names a process that it took too. Raises OSError."""
        atomicfile.write(self._task, _encode(record), durable=False, alone=True)

    def write_exit(self, record: ExitRecord, *, durable: bool = True) -> None:
        """Raises OSError."""
        text = _encode(record)
        if len(text) > self._exit.SIZE:
            # It wants blocks of its own then, as any file does.
            atomicfile.write(self._exit.path, text, durable=durable, alone=True)
            self._exit.release()
            return
        self._exit.commit(text, durable=durable)

    def sync_exit(self) -> None:
        """Make durable what was written without being so. Raises OSError."""
        atomicfile.sync(self._exit.path)

    def read_task(self) -> TaskRecord | None:
        """The task record, None when there is none that can be read; what its writer left unfinished goes."""
        atomicfile.sweep(self._task)
        return _read(self._task, TaskRecord)

    def read_exit(self) -> ExitRecord | None:
        """The exit record, None when there is none that can be read."""
        return _read(self._exit.path, ExitRecord)

    def _forget_task(self) -> None:
        atomicfile.remove(self._task, durable=False)
        atomicfile.sweep(self._task)


def encode_losses(losses: tuple[Loss, ...]) -> bytes:
    """As a JSON list; nothing for none."""
    return json.dumps([asdict(loss) for loss in losses]).encode() if losses else b""


def _encode(record: ExitRecord | TaskRecord) -> bytes:
    told = {name: getattr(record, name) for name in record.__slots__}
    told["losses"] = [asdict(loss) for loss in record.losses]
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def _read(path: str, kind: type[RecordT]) -> RecordT | None:
    try:
        found: Any = json.loads(atomicfile.read(path, _LIMIT))
        known = {field.name for field in fields(kind)}
        found["losses"] = [_loss(loss) for loss in found.get("losses", ())]
        return kind(**{name: _value(value) for name, value in found.items() if name in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _loss(told: dict[str, Any]) -> Loss:
    known = {field.name for field in fields(Loss)}
    return Loss(**{name: value for name, value in told.items() if name in known})


def _value(value: Any) -> Any:
    """JSON has lists only."""
    return tuple(value) if isinstance(value, list) else value
