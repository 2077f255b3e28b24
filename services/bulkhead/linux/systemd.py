"""The systemd manager over D-Bus: transient units, their properties and their end (org.freedesktop.systemd1(5)).

Root speaks to systemd's private socket, where no bus daemon need run, and else to the system bus; a user to the
session's bus. jeepney (an optional dependency) writes the messages. Everything raises OSError.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import termios
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# A property: name, D-Bus signature, value.
Property = tuple[str, str, Any]

_PRIVATE = "/run/systemd/private"
_SYSTEM_BUS = "/run/dbus/system_bus_socket"
_SECONDS = 30.0
_MANAGER = "org.freedesktop.systemd1.Manager"
_ERRORS = {"NoSuchUnit": errno.ENOENT, "UnitExists": errno.EEXIST, "AccessDenied": errno.EACCES}


def is_running() -> bool:
    """As sd_booted(3) finds out."""
    return Path("/run/systemd/system").is_dir()


class Systemd:
    """One connection; a context manager."""

    def __init__(self) -> None:
        if not is_running():
            raise OSError(errno.EOPNOTSUPP, "systemd not running on this host, cannot use systemd cgroups manager")
        try:
            import jeepney  # noqa: F401  only where the systemd driver is asked for
        except ImportError:
            text = "the systemd cgroup driver needs the Python package jeepney (pip install bulkhead[systemd])"
            raise OSError(errno.EOPNOTSUPP, text) from None
        self._connection = _connected()

    def __enter__(self) -> Systemd:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def start(self, unit: str, properties: Iterable[Property]) -> None:
        """Start a transient unit and wait until its job is done."""
        variants = [(name, (signature, value)) for name, signature, value in properties]
        self._job(f"start {unit}", "StartTransientUnit", "ssa(sv)a(sa(sv))", (unit, "replace", variants, []))

    def stop(self, unit: str) -> None:
        """Stop a unit, wait for that, and forget how it ended. A unit that is not there is stopped."""
        with contextlib.suppress(FileNotFoundError):
            self._job(f"stop {unit}", "StopUnit", "ss", (unit, "replace"))
        with contextlib.suppress(OSError):
            self._call("ResetFailedUnit", "s", (unit,))

    def set_properties(self, unit: str, properties: Iterable[Property]) -> None:
        """Until the next boot."""
        variants = [(name, (signature, value)) for name, signature, value in properties]
        self._call("SetUnitProperties", "sba(sv)", (unit, True, variants))

    def version(self) -> int:
        """The major version, 0 where it says something else."""
        from jeepney import Properties

        told = self._connection.ask(Properties(self._connection.manager).get("Version"))[0][1]
        digits = "".join(letter if letter.isdigit() else " " for letter in str(told)).split()
        return int(digits[0]) if digits else 0

    def _job(self, what: str, method: str, signature: str, body: tuple[Any, ...]) -> None:
        """A call that begins a job, and the job's end: a signal, which may come before the call is answered."""
        self._connection.listen("JobRemoved")
        self._call("Subscribe")
        (job,) = self._call(method, signature, body)
        result = next(end[3] for end in self._connection.signals() if end[1] == job)
        if result not in ("done", "skipped"):
            raise OSError(errno.EIO, f"systemd could not {what}: job {result}")

    def _call(self, method: str, signature: str | None = None, body: tuple[Any, ...] = ()) -> Any:
        from jeepney import new_method_call

        return self._connection.ask(new_method_call(self._connection.manager, method, signature, body))


class _Connection:
    """Calls and signals over one authenticated socket: jeepney's own would greet a bus where there is none."""

    def __init__(self, connected: socket.socket, *, is_bus: bool) -> None:
        from jeepney import DBusAddress, Parser

        self._socket, self._parser, self._is_bus = connected, Parser(), is_bus
        self._serial = 0
        self._wanted = ""
        self._signals: list[Any] = []
        # Without a bus nobody reads the name, as with systemctl's own calls.
        self.manager = DBusAddress("/org/freedesktop/systemd1", "org.freedesktop.systemd1", _MANAGER)
        if is_bus:
            from jeepney.bus_messages import message_bus

            self.ask(message_bus.Hello())

    def close(self) -> None:
        self._socket.close()

    def listen(self, member: str) -> None:
        """Keep what the manager says by this signal, from now on."""
        self._wanted = member
        if self._is_bus:
            from jeepney import MatchRule
            from jeepney.bus_messages import message_bus

            self.ask(message_bus.AddMatch(MatchRule(type="signal", interface=_MANAGER, member=member)))

    def ask(self, message: Any) -> Any:
        """The answer's body."""
        from jeepney import HeaderFields, MessageType

        self._serial += 1
        self._socket.sendall(message.serialise(serial=self._serial))
        deadline = time.monotonic() + _SECONDS
        while True:
            reply = self._receive(deadline)
            if reply is not None and reply.header.fields.get(HeaderFields.reply_serial) == self._serial:
                break
        if reply.header.message_type != MessageType.error:
            return reply.body
        name = str(reply.header.fields.get(HeaderFields.error_name, ""))
        number = _ERRORS.get(name.rpartition(".")[2], errno.EIO)
        raise OSError(number, f"systemd: {reply.body[0] if reply.body else name}")

    def signals(self) -> Iterator[Any]:
        """Bodies of the signals, those that have come first; TimeoutError when none comes."""
        deadline = time.monotonic() + _SECONDS
        while True:
            while self._signals:
                yield self._signals.pop(0)
            self._receive(deadline)

    def _receive(self, deadline: float) -> Any:
        """The next message, when it is no signal; those that are wanted are kept."""
        from jeepney import HeaderFields, MessageType

        while (message := self._parser.get_next_message()) is None:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "systemd closed the connection")
            self._parser.add_data(data)
        if message.header.message_type != MessageType.signal:
            return message
        if message.header.fields.get(HeaderFields.member) == self._wanted:
            self._signals.append(message.body)
        return None


def _connected() -> _Connection:
    from jeepney.io.blocking import prep_socket

    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            private = prep_socket(_PRIVATE, timeout=_SECONDS)
            _wait_until_read(private)
            return _Connection(private, is_bus=False)
        address = _SYSTEM_BUS
    else:
        runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
        address = f"{runtime}/bus"
    try:
        return _Connection(prep_socket(address, timeout=_SECONDS), is_bus=True)
    except OSError as error:
        raise OSError(error.errno or errno.EIO, f"cannot reach systemd at {address}: {error}") from error


def _wait_until_read(connected: socket.socket) -> None:
    """Until the other side has taken what was sent. TimeoutError.

    systemd does not look at a call that it read together with the end of the authentication before more comes.
    """
    deadline = time.monotonic() + _SECONDS
    unread = array.array("i", [1])
    while True:
        fcntl.ioctl(connected, termios.TIOCOUTQ, unread)
        if not unread[0]:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "systemd does not read")
        time.sleep(0.0005)
