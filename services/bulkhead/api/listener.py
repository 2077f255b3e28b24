"""The socket `docker.sock`: bound in the place of a stale one, open to root and one group."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
from pathlib import Path

from bulkhead.errors import Conflict, Internal

MODE = 0o660
_BACKLOG = 512


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
