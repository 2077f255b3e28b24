"""The socket `docker.sock`: bound in the place of a stale one, open to root and one group, or given by systemd."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from bulkhead.errors import Conflict, Internal, InvalidArgument

MODE = 0o660
_BACKLOG = 512
_FIRST_GIVEN = 3  # SD_LISTEN_FDS_START


def bind(path: Path, group: str) -> socket.socket:
    """A listening Unix socket at `path`, 0660 and of `group` when there is such a group.

    It appears under its name only when it listens with its final mode, so that no client ever sees a half-made
    one. Raises Conflict when a live process listens there, Internal when it cannot be made.
    """
    _refuse_live(path)
    made = path.with_name(f".{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        made.unlink(missing_ok=True)
        listener.bind(str(made))
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(made, -1, grp.getgrnam(group).gr_gid)
        made.chmod(MODE)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        made.replace(path)
    except OSError as error:
        listener.close()
        raise Internal(f"cannot listen on {path}: {error.strerror}") from error
    return listener


def inherited(environ: Mapping[str, str] = os.environ) -> socket.socket | None:
    """The listening Unix socket that a service manager opened for us (sd_listen_fds(3)); None without one.

    Its mode and owner are the manager's business. Raises InvalidArgument when what it gave is no such socket.
    """
    count = environ.get("LISTEN_FDS", "0")
    if environ.get("LISTEN_PID") != str(os.getpid()) or count == "0":
        return None
    if count != "1":
        raise InvalidArgument(f"cannot use the sockets of the service manager: one is wanted, LISTEN_FDS is {count}")
    given = socket.socket(fileno=_FIRST_GIVEN)
    listens = given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if given.family != socket.AF_UNIX or given.type != socket.SOCK_STREAM or not listens:
        raise InvalidArgument("cannot use the socket of the service manager: it is not a listening Unix stream socket")
    os.set_inheritable(_FIRST_GIVEN, False)
    given.setblocking(False)
    return given


def remove(path: Path) -> None:
    """Take the socket's name away; clients that are connected stay."""
    path.unlink(missing_ok=True)


def _refuse_live(path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise Conflict(f"cannot listen on {path}: another process listens there")
