"""A fork of the shim that makes one process and leaves: memory that it took goes with it.

Descriptors come over by SCM_RIGHTS, and the made process by the kernel: the shim is the subreaper.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from bulkhead.errors import BulkheadError, Internal, LaunchFailed
from bulkhead.linux import fdpass
from bulkhead.wire.status import error_named

_MESSAGE_LIMIT = 64 << 10
_TEXT_LIMIT = 16 << 10
# What to tell, which descriptors to send, and who owns these until they are sent; one that can be called
# is called when nobody is left to take the process.
Answer = tuple[dict[str, Any], Sequence[int], object]


class Interrupted(Internal):
    """The child has died before it could tell anything."""


class Child:
    """A fork of the shim that makes one process and leaves."""

    def __init__(self, pid: int, link: socket.socket) -> None:
        self.pid = pid
        self._link = link

    @classmethod
    def working(cls, work: Callable[[], Answer]) -> Child:
        """One that is at it already."""
        child, link = cls._fork()
        if child is None:
            _work_and_leave(work, link)
        return cls(child or 0, link)

    @staticmethod
    def _fork() -> tuple[int | None, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child = os.fork()
        if child == 0:
            ours.close()
            return None, theirs
        theirs.close()
        return child, ours

    def outcome(self) -> tuple[dict[str, Any], list[int]]:
        """Wait for what the work came to. Raises what it raised; Internal if the child died.

        The child leaves by itself: whoever made it has its zombie to reap.
        """
        try:
            with self._link:
                message, descriptors = fdpass.receive(self._link, _MESSAGE_LIMIT, 3)
        except OSError as error:
            raise Interrupted(f"cannot launch the process: {error}") from error
        if not message:
            raise Interrupted("cannot launch the process: the launching process died")
        told = json.loads(message)
        if "error" in told:
            raise _error(told)
        return told, descriptors


def _work_and_leave(work: Callable[[], Answer], link: socket.socket) -> None:
    try:
        try:
            told, descriptors, owner = work()
        except BulkheadError as error:
            told, descriptors, owner = _failure(error), (), None
        except Exception as error:
            told, descriptors, owner = _failure(Internal(f"{type(error).__name__}: {error}")), (), None
        try:
            fdpass.send(link, json.dumps(told).encode(), descriptors)
        except OSError:
            if callable(owner):
                owner()
            raise
        del owner
    finally:
        os._exit(0)


def _failure(error: BulkheadError) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": type(error).__name__, "error": str(error)[:_TEXT_LIMIT]}
    if isinstance(error, LaunchFailed):
        told |= {"step": error.step, "errno": error.errno, "exit_code": error.exit_code}
    return told


def _error(told: dict[str, Any]) -> BulkheadError:
    if told["kind"] == "LaunchFailed":
        return LaunchFailed(told["error"], step=told["step"], errno=told["errno"], exit_code=told["exit_code"])
    return error_named(told["kind"], told["error"])


def told_warnings(warnings: Sequence[str]) -> list[str]:
    """As many as fit into an answer."""
    return [text[:_TEXT_LIMIT] for text in warnings[:2]]
