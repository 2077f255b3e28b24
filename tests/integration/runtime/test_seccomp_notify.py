"""A filter that asks an agent: the listener goes to listenerPath with the state, before anything can wait for it."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bulkhead.errors import BulkheadError
from tests.support.containers import Box, Config

# struct seccomp_notif (80 bytes) and seccomp_notif_resp (24 bytes), seccomp_unotify(2)
RECEIVE, SEND = 0xC0502100, 0xC0182101


class Agent:
    """Answers every call that it is asked about with one errno."""

    def __init__(self, path: Path, answer: int) -> None:
        self.path = path
        self.told: list[dict[str, Any]] = []
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self._listeners: list[int] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._socket.accept()
                with link:
                    self._take(link)
                threading.Thread(target=self._reply, args=[self._listeners[-1]], daemon=True).start()

    def _take(self, link: socket.socket) -> None:
        data, ancillary, _, _ = link.recvmsg(65536, socket.CMSG_SPACE(4))
        fds = array.array("i")
        fds.frombytes(ancillary[0][2])
        self._listeners.append(fds[0])
        self.told.append(json.loads(data))

    def _reply(self, listener: int) -> None:
        room = ctypes.create_string_buffer(80)
        with contextlib.suppress(OSError):
            while True:
                ctypes.memset(room, 0, 80)
                fcntl.ioctl(listener, RECEIVE, room)
                number = struct.unpack_from("=Q", room.raw)[0]
                fcntl.ioctl(listener, SEND, struct.pack("=QqiI", number, 0, -self._answer, 0))

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        for fd in self._listeners:
            os.close(fd)
        self.path.unlink()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    found = Agent(tmp_path / "agent", errno.ENOANO)
    yield found
    found.close()


def asking(box: Box, path: Path, *args: str) -> Config:
    config = box.config(*args)
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(path),
        "listenerMetadata": "colour=blue",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    }
    config["linux"]["seccomp"] = profile
    return config


@pytest.mark.parametrize("confined", [False, True], ids=["privileges", "no new privileges"])
def test_the_agent_gets_the_listener_and_answers(box: Box, agent: Agent, confined: bool) -> None:
    config = asking(box, agent.path, "sh", "-c", "mkdir /made; echo alive")
    config["process"]["noNewPrivileges"] = confined
    done = box.run_config(config, bundle="/b")
    assert done.output.splitlines() == [f"mkdir: can't create directory '/made': {os.strerror(errno.ENOANO)}", "alive"]
    [told] = agent.told
    assert told["fds"] == ["seccompFd"]
    assert told["metadata"] == "colour=blue"
    assert told["pid"] == told["state"]["pid"] > 1
    assert (told["state"]["status"], told["state"]["bundle"]) == ("creating", "/b")


def test_a_further_process_has_a_listener_of_its_own(box: Box, agent: Agent) -> None:
    config = asking(box, agent.path, "sleep", "600")
    task = box.create(config)
    task.start()
    done = box.exec(task, config, "mkdir", "/made")
    assert os.strerror(errno.ENOANO) in done.output
    assert len(agent.told) == 2
    box.kill(task)


def test_without_an_agent_nothing_is_begun(box: Box, tmp_path: Path) -> None:
    with pytest.raises(BulkheadError, match="failed to connect with seccomp agent"):
        box.create(asking(box, tmp_path / "nobody", "true"))
