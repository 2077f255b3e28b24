"""Archives on their way straight to their worker: whole, broken off, and sockets that a dead service left behind."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.content.inlets import Incoming, Inlets
from bulkhead.errors import InvalidArgument


@pytest.fixture
def inlets(tmp_path: Path) -> Inlets:
    return Inlets(tmp_path / "inlets")


@pytest.fixture
def listener(inlets: Inlets) -> Iterator[socket.socket]:
    with inlets.opened() as opened:
        yield opened


@pytest.fixture
def sender(listener: socket.socket) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(listener.getsockname())
        yield connection


def incoming(listener: socket.socket) -> Incoming:
    """As the worker has it, whose descriptor is its own."""
    return Incoming(listener.dup().detach())


def test_an_archive_comes_whole(listener: socket.socket, sender: socket.socket) -> None:
    sender.sendall(b"the beginning")
    archive = incoming(listener)
    assert archive.head == b"the beginning"
    sender.sendall(b" and the end")
    sender.shutdown(socket.SHUT_WR)
    assert [archive.read(64) for _ in range(3)] == [b"the beginning", b" and the end", b""]


def test_an_empty_archive_is_one(listener: socket.socket, sender: socket.socket) -> None:
    sender.shutdown(socket.SHUT_WR)
    archive = incoming(listener)
    assert (archive.head, archive.read(64)) == (b"", b"")


@pytest.mark.parametrize("ended", [False, True])
def test_what_breaks_off_is_never_taken_for_whole(listener: socket.socket, sender: socket.socket, ended: bool) -> None:
    """The end that was told of is believed only while the sender is there: who tells it stays for the answer."""
    sender.sendall(b"the beginning")
    archive = incoming(listener)
    if ended:
        sender.shutdown(socket.SHUT_WR)
    sender.close()
    assert archive.read(64) == b"the beginning"
    with pytest.raises(InvalidArgument, match="it broke off"):
        archive.read(64)


def test_a_run_directory_that_was_tidied_up_is_no_trouble(inlets: Inlets, tmp_path: Path) -> None:
    for _ in range(2):
        with inlets.opened() as listener:
            assert Path(listener.getsockname()).is_socket()
        (tmp_path / "inlets").rmdir()


def test_nothing_is_left_of_it(inlets: Inlets, tmp_path: Path) -> None:
    with inlets.opened() as listener:
        assert Path(listener.getsockname()).is_socket()
    assert list((tmp_path / "inlets").iterdir()) == []


def test_what_a_dead_service_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "inlets").mkdir(mode=0o755)
    (tmp_path / "inlets/left.sock").touch()
    with Inlets(tmp_path / "inlets").opened():
        assert len(list((tmp_path / "inlets").iterdir())) == 1
    assert stat.S_IMODE((tmp_path / "inlets").stat().st_mode) == 0o700
