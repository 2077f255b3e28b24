"""The systemd manager over D-Bus: transient units, their properties and their end (org.freedesktop.systemd1(5)).

Root speaks to systemd's private socket, where no bus daemon need run, and else to the system bus; a user to the
session's bus. jeepney (an optional dependency) writes the messages. Everything raises OSError.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# A property: name, D-Bus signature, value.
Property = tuple[str, str, Any]

_PRIVATE = "/run/systemd/private"
_SYSTEM_BUS = "/run/dbus/system_bus_socket"
_SECONDS = 30.0
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
            from jeepney.io import blocking  # only where the systemd driver is asked for
        except ImportError:
            text = "the systemd cgroup driver needs the Python package jeepney (pip install bulkhead[systemd])"
            raise OSError(errno.EOPNOTSUPP, text) from None
        self._bus, self._connection = _connected(blocking)

    def __enter__(self) -> Systemd:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def start(self, unit: str, properties: Iterable[Property]) -> None:
        """Start a transient unit and wait until its job is done."""
        variants = [(name, (signature, value)) for name, signature, value in properties]
        with self._job() as finished:
            job = self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", (unit, "replace", variants, []))
            finished(job[0], f"start {unit}")

    def stop(self, unit: str) -> None:
        """Stop a unit, wait for that, and forget how it ended. A unit that is not there is stopped."""
        with contextlib.suppress(FileNotFoundError):
            with self._job() as finished:
                job = self._call("StopUnit", "ss", (unit, "replace"))
                finished(job[0], f"stop {unit}")
        with contextlib.suppress(OSError):
            self._call("ResetFailedUnit", "s", (unit,))

    def set_properties(self, unit: str, properties: Iterable[Property]) -> None:
        """Until the next boot."""
        variants = [(name, (signature, value)) for name, signature, value in properties]
        self._call("SetUnitProperties", "sba(sv)", (unit, True, variants))

    def version(self) -> int:
        """The major version, 0 where it says something else."""
        from jeepney import Properties

        told = self._ask(Properties(self._address()).get("Version"))[0][1]
        digits = "".join(letter if letter.isdigit() else " " for letter in str(told)).split()
        return int(digits[0]) if digits else 0

    @contextlib.contextmanager
    def _job(self) -> Iterator[Any]:
        """Jobs end by a signal, which may come before the call that began one is answered."""
        from jeepney import MatchRule

        rule = MatchRule(type="signal", interface="org.freedesktop.systemd1.Manager", member="JobRemoved")
        self._call("Subscribe")
        if self._bus:
            from jeepney.bus_messages import message_bus

            self._ask(message_bus.AddMatch(rule))
        with self._connection.filter(rule, bufsize=1000) as signals:

            def finished(job: str, what: str) -> None:
                while True:
                    body = self._connection.recv_until_filtered(signals, timeout=_SECONDS).body
                    if body[1] == job:
                        break
                if body[3] not in ("done", "skipped"):
                    raise OSError(errno.EIO, f"systemd could not {what}: job {body[3]}")

            yield finished

    def _address(self) -> Any:
        from jeepney import DBusAddress

        return DBusAddress(
            "/org/freedesktop/systemd1",
            bus_name="org.freedesktop.systemd1" if self._bus else None,
            interface="org.freedesktop.systemd1.Manager",
        )

    def _call(self, method: str, signature: str | None = None, body: tuple[Any, ...] = ()) -> Any:
        from jeepney import new_method_call

        return self._ask(new_method_call(self._address(), method, signature, body))

    def _ask(self, message: Any) -> Any:
        from jeepney import HeaderFields, MessageType

        reply = self._connection.send_and_get_reply(message, timeout=_SECONDS)
        if reply.header.message_type != MessageType.error:
            return reply.body
        name = str(reply.header.fields.get(HeaderFields.error_name, ""))
        number = _ERRORS.get(name.rpartition(".")[2], errno.EIO)
        raise OSError(number, f"systemd: {reply.body[0] if reply.body else name}")


def _connected(blocking: Any) -> tuple[bool, Any]:
    """Whether it is a bus, and the connection."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            return False, blocking.DBusConnection(blocking.prep_socket(_PRIVATE, timeout=_SECONDS))
        address = _SYSTEM_BUS
    else:
        runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
        address = f"{runtime}/bus"
    try:
        connection = blocking.DBusConnection(blocking.prep_socket(address, timeout=_SECONDS))
    except OSError as error:
        raise OSError(error.errno or errno.EIO, f"cannot reach systemd at {address}: {error}") from error
    from jeepney.bus_messages import message_bus

    connection.send_and_get_reply(message_bus.Hello(), timeout=_SECONDS)
    return True, connection
