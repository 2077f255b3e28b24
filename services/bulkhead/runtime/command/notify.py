"""NOTIFY_SOCKET: the container's process tells whoever started us that it is ready (sd_notify(3)).

It cannot reach the caller's socket, so it gets one of ours, bind mounted at /run/notify as runc does. Of what comes
there only the readiness goes on, with the process's id as the host knows it: a container may not speak for the unit
in other ways.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from typing import Any

_INSIDE = "/run/notify"
_NAME = "notify.sock"
_READY = b"READY="
_MESSAGE = 4096
_OPTIONS = ["bind", "nosuid", "noexec", "nodev", "ro"]


def offer(config: dict[str, Any], directory: str) -> None:
    """Where the caller listens, let the container find a socket: a mount and a variable more in its config."""
    if not _caller():
        return
    place = _place(directory)
    os.mkdir(place, 0o755)  # noqa: PTH102
    mount = {"destination": _INSIDE, "type": "bind", "source": place, "options": _OPTIONS}
    config["mounts"] = [*(config.get("mounts") or ()), mount]
    process = config.get("process")
    if isinstance(process, dict):
        process["env"] = [*(process.get("env") or ()), f"NOTIFY_SOCKET={_INSIDE}/{_NAME}"]


def listen(directory: str) -> Listener | None:
    """The container's socket, before its process may look for it; None where nothing was offered or nobody asks."""
    caller = _caller()
    place = _place(directory)
    if not caller or not os.path.isdir(place):  # noqa: PTH112
        return None
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # The whole path may be longer than an address can be.
        name = f"/proc/self/fd/{fd}/{_NAME}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108
        listening.bind(name)
        os.chmod(name, 0o777)  # noqa: PTH101 (whatever our umask says, and whoever the process is)
    finally:
        os.close(fd)
    return Listener(listening, caller)


class Listener:
    """The container's end of the line to `caller`."""

    def __init__(self, listening: socket.socket, caller: str) -> None:
        self._listening = listening
        self._caller = caller

    def pass_on(self, process: int, pid: int) -> None:
        """Wait until the process (a pidfd) says that it is ready, or ends. `pid`: the caller's new main process."""
        poller = select.poll()
        poller.register(self._listening.fileno(), select.POLLIN)
        poller.register(process, select.POLLIN)
        while True:
            there = {fd for fd, _ in poller.poll()}
            if self._listening.fileno() in there:
                if self._told(pid):
                    return
            elif process in there:
                return

    def pass_on_meanwhile(self, process: int) -> None:
        """The same beside other work, for as long as that takes; the main process is the caller's child as it was."""
        import threading  # which nobody else here needs

        threading.Thread(target=self.pass_on, args=(process, 0), daemon=True).start()

    def _told(self, pid: int) -> bool:
        message = self._listening.recv(_MESSAGE)
        ready = next((line for line in message.split(b"\n") if line.startswith(_READY)), None)
        if ready is None:
            return False
        text = ready + b"\n" + (b"MAINPID=%d\n" % pid if pid else b"")
        # A caller that has gone is not the container's fault.
        with contextlib.suppress(OSError):
            sending = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                sending.sendto(text, "\0" + self._caller[1:] if self._caller.startswith("@") else self._caller)
            finally:
                sending.close()
        return True


def _caller() -> str:
    return os.environ.get("NOTIFY_SOCKET", "")


def _place(directory: str) -> str:
    return f"{directory}/notify"
