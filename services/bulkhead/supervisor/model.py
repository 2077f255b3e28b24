"""The model: a spare that lives the rehearsed life to the point of rest, for its likeness.

What all shims have changed of the zygote's memory by then is the same in most of them. The model leaves a picture of it
(`nsexec.be_model`), from which they share those pages. It sits in the background, directed by a process of its own:
the zygote does not wait, and both end with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable

from bulkhead import nsexec
from bulkhead.errors import BulkheadError, Unavailable
from bulkhead.linux import fdpass, process
from bulkhead.shim.rehearsal import Play, Stage

Live = Callable[[Stage, socket.socket], None]
# A spare is wanted sooner than this.
_FIRST = 0.5
_PATIENCE = 10.0
_LOOK = 0.1
_ANSWER_LIMIT = 1 << 10


class Director:
    """Has a model live, while the zygote does: at its end `zygote` can be read."""

    def __init__(self, scratch: str, live: Live, zygote: int) -> None:
        """`live` is what a forked process does to become the spare that will hear on the socket; it never returns."""
        self._stage = Stage(scratch)
        self._live = live
        self._zygote = zygote

    def run(self) -> None:
        """Nothing is left of it. Without a likeness shims are larger, that is all."""
        # Neither it nor the model is a spare.
        process.set_title("bulkhead-model")
        with contextlib.suppress(OSError, BulkheadError):
            self._pause(_FIRST)
            # Forked before anything else is done, so that it finds what a spare finds.
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            model = self._fork(ours, theirs)
            theirs.close()
            try:
                self._direct(ours)
            finally:
                os.kill(model, signal.SIGKILL)
                os.waitpid(model, 0)
        self._stage.clear()

    def _fork(self, ours: socket.socket, theirs: socket.socket) -> int:
        director = os.getpid()
        model = os.fork()
        if model:
            return model
        try:
            process.end_with(director)
            ours.close()
            os.close(self._zygote)
            nsexec.be_model()
            self._live(self._stage, theirs)
        finally:
            os._exit(1)

    def _direct(self, link: socket.socket) -> None:
        self._stage.prepare()
        play = Play(self._stage, self._await_likeness, execs=False)
        play.prepare()
        try:
            with link:
                fdpass.send(link, "\0".join(self._stage.identity).encode(), [])
                self._await(link)
                link.recv(_ANSWER_LIMIT)
                # Open meanwhile, for what it confides.
                play.run(self._await)
        finally:
            play.clear()

    def _await_likeness(self) -> None:
        for _ in range(int(_PATIENCE / _LOOK)):
            if nsexec.has_likeness():
                return
            self._pause(_LOOK)

    def _await(self, answering: socket.socket) -> None:
        """Wait until there is something to receive."""
        if answering not in self._poll(_PATIENCE, answering):
            raise Unavailable("cannot make a likeness: the model does not answer")

    def _pause(self, seconds: float) -> None:
        self._poll(seconds)

    def _poll(self, seconds: float, *more: socket.socket) -> list[socket.socket]:
        readable, _, _ = select.select([self._zygote, *(each.fileno() for each in more)], [], [], seconds)
        if self._zygote in readable:
            raise Unavailable("cannot make a likeness: the zygote has ended")
        return [each for each in more if each.fileno() in readable]
