"""The standard streams of one process: from its pipes or terminal to the log and to attached peers, and back.

Output goes to everyone as it is read; nobody sees what was before. Who cannot keep up holds the
reading, so that the process blocks as on a slow terminal, until the holder catches up or is dropped.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import select
import struct
import termios
from collections import deque
from collections.abc import Callable, Mapping

from bulkhead.shim import custody, journal
from bulkhead.shim.loop import Loop, Timer
from bulkhead.shim.peers import Peer
from bulkhead.shim.ports import Stdio
from bulkhead.shim.sinks import LogSink, NoLog

STDOUT, STDERR = 1, 2
_CHUNK = 256 << 10
# As much as an unprivileged user may ask for (pipe(7)); the default holds a 16th of it.
_PIPE_SIZE = 1 << 20
_INPUT_LIMIT = 64 << 10
# After the process has ended: without news for so long, or after so long at all, its pipes count as ended.
DRAIN_IDLE = 2.0
_DRAIN_LONGEST = 10.0
# A terminal that nobody has open reports a hang-up for ever.
_CONSOLE_RETRY = 0.1


class Streams:
    """One process's stdin, stdout, stderr. They outlive the process until they are drained."""

    def __init__(self, loop: Loop, *, stdin_once: bool = False, ends_with_process: bool = False) -> None:
        """With `ends_with_process` its output has not ended before the process has: we are a writer ourselves until we
        are told so, and not woken by each pipe before that."""
        self._loop = loop
        self._ends_with_process = ends_with_process
        # Where output goes, before any is read.
        self.log: LogSink = NoLog()
        self.stdin_once = stdin_once
        self.tty = False
        self.ended = False
        self._peers: list[Peer] = []
        self._holders: set[object] = set()
        self._sources: dict[int, int] = {}
        self._watched: set[int] = set()
        self._stdin = -1
        self._console = -1
        self._theirs: list[int] = []
        self._held: list[int] = []
        self._opened = False
        self._input: deque[memoryview] = deque()
        self._input_size = 0
        self._stdin_closing = False
        self._size = (0, 0)
        self._exited = False
        self._drained: Callable[[], None] | None = None
        self._idle: Timer | None = None
        self._longest: Timer | None = None
        self._stdin_gone: Callable[[], None] = _nothing

    # Birth

    def open(
        self,
        *,
        tty: bool,
        stdin: bool,
        stdout: bool = True,
        stderr: bool = True,
        lasting: bool = False,
    ) -> Stdio:
        """Make the pipes; the child's ends are to be closed by `launched` or `abandon`. Raises OSError.

        With `lasting` the process is not hit by SIGPIPE when this one dies: its output waits for a successor.
        """
        self.tty = tty
        if tty:
            return Stdio()
        try:
            return Stdio(
                stdin=self._stdin_pipe() if stdin else -1,
                stdout=self._output_pipe(STDOUT, lasting=lasting) if stdout else -1,
                stderr=self._output_pipe(STDERR, lasting=lasting) if stderr else -1,
            )
        except OSError:
            self.abandon()
            raise

    def launched(self, console: int | None) -> None:
        """The child has its ends. With a terminal, `console` is its master, which is ours from now on."""
        _close_all(self._theirs)
        if console is not None:
            os.set_blocking(console, False)
            self._console = self._stdin = console
            self._sources[console] = STDOUT
            if self._size != (0, 0):
                _set_window_size(console, *self._size)
        self._opened = True
        self._watch_sources()
        self._let_input()

    def lasts(self) -> None:
        """One whose output ends with it runs on: its pipes are to hold as much as others', which most never need."""
        if not self.tty:
            with contextlib.suppress(OSError):  # they work as they are
                for fd in self._sources:
                    journal.widen(fd, _PIPE_SIZE)

    def inherit(self, descriptors: Mapping[str, int], *, stdin_once: bool, log: LogSink) -> None:
        """Go on with what an earlier shim's streams were; they are ours from now on."""
        self.log, self.stdin_once = log, stdin_once
        for name in descriptors.keys() & {custody.STDIN, custody.STDOUT, custody.STDERR}:
            os.set_blocking(descriptors[name], False)
        for name, stream in ((custody.STDOUT, STDOUT), (custody.STDERR, STDERR)):
            if name in descriptors:
                self._sources[descriptors[name]] = stream
        self._stdin = descriptors.get(custody.STDIN, -1)
        console = descriptors.get(custody.CONSOLE)
        self.tty = console is not None
        self.launched(console)

    def to_keep(self, stdin_gone: Callable[[], None]) -> dict[str, int]:
        """The descriptors that a successor needs; `stdin_gone` is called when stdin is not among them any more.

        Without a peer, stdin ends where it is to end with the client: a duplicate must not keep it open.
        """
        self._stdin_gone = stdin_gone
        if self._console >= 0:
            return {custody.CONSOLE: self._console} | self.log.to_keep()
        names = {STDOUT: custody.STDOUT, STDERR: custody.STDERR}
        kept = {names[stream]: fd for fd, stream in self._sources.items()} | self.log.to_keep()
        if self._stdin >= 0 and not self.stdin_once:
            kept[custody.STDIN] = self._stdin
        return kept

    def pipes(self) -> tuple[int, ...]:
        """The inodes of stdout and stderr, 0 for what is no pipe."""
        found = {stream: os.fstat(fd).st_ino for fd, stream in self._sources.items() if fd != self._console}
        return tuple(found.get(stream, 0) for stream in (STDOUT, STDERR))

    def abandon(self) -> None:
        """There will be no process: close everything but the peers."""
        _close_all(self._theirs)
        _close_all(self._held)
        for fd in tuple(self._sources):
            self._close_source(fd)
        self._close_stdin()

    # Peers

    def attach(self, peer: Peer) -> None:
        """Give `peer` all output from now on. Streams that have ended end it at once."""
        self._peers.append(peer)
        if self.ended:
            peer.finish()
        elif not self._opened or self._input_size > _INPUT_LIMIT:
            peer.pause_input()

    def left(self, peer: Peer) -> None:
        """See `peers.Attached`."""
        if peer in self._peers:
            self._peers.remove(peer)

    def hold(self, holder: object) -> None:
        """Read no more output until every holder has called `unhold`."""
        self._holders.add(holder)
        self._watch_sources()

    def unhold(self, holder: object) -> None:
        """Undo the holder's `hold`, if it has."""
        if holder in self._holders:
            self._holders.discard(holder)
            self._watch_sources()

    def say(self, text: bytes) -> None:
        """Tell the peers something on stdout that the process did not say."""
        for peer in tuple(self._peers):
            peer.offer(STDOUT, text)

    def finish(self) -> None:
        """No more output: every peer's stream ends."""
        self.ended = True
        for peer in tuple(self._peers):
            peer.finish()

    def drop_peers(self) -> None:
        """Hang up on every peer, whatever it still was to receive."""
        for peer in tuple(self._peers):
            peer.drop()

    @property
    def attended(self) -> bool:
        """Whether a peer is attached."""
        return bool(self._peers)

    @property
    def busy(self) -> bool:
        """Whether a peer still has something to receive, or is still typing into the void."""
        return any(peer.busy() for peer in self._peers)

    # Input

    def typed(self, data: bytes) -> None:
        """See `peers.Attached`."""
        if self._stdin_closing or (self._opened and self._stdin < 0):
            return
        self._input.append(memoryview(data))
        self._input_size += len(data)
        self._write_input()

    def input_ended(self) -> None:
        """See `peers.Attached`. A terminal stays open, as Docker's does."""
        if self.stdin_once and not self.tty:
            self.close_stdin()

    def close_stdin(self) -> None:
        """EOF for the process, after the input that waits. A terminal has no such thing."""
        if self.tty:
            return
        self._stdin_closing = True
        if self._opened and not self._input:
            self._close_stdin()

    def resize(self, height: int, width: int) -> None:
        """Set the terminal's size, now or when there is one. Raises OSError."""
        self._size = (height, width)
        if self._console >= 0:
            _set_window_size(self._console, height, width)

    # End

    def drain(self, done: Callable[[], None]) -> None:
        """The process has ended: read what it left, then call `done`, however others hold the pipes."""
        self._exited = True
        _close_all(self._held)
        # A dead process's pipes hold little: it goes to the peers' buffers whatever their limit.
        for fd in tuple(self._sources):
            for _ in range(2 * _PIPE_SIZE // _CHUNK):
                if fd not in self._sources or not self._read(fd):
                    break
        self._drained = done
        if self._sources:
            self._longest = self._loop.later(_DRAIN_LONGEST, self._end_drain)
        self._note_news()

    # Inside

    def _stdin_pipe(self) -> int:
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ours, False)
        self._stdin = ours
        self._theirs.append(theirs)
        return theirs

    def _output_pipe(self, stream: int, *, lasting: bool) -> int:
        ours, theirs = _writable_pipe(lasting=lasting)
        (self._held if self._ends_with_process else self._theirs).append(theirs)
        self._sources[ours] = stream
        if not self._ends_with_process:
            journal.widen(ours, _PIPE_SIZE)
        return theirs

    def _watch_sources(self) -> None:
        """Read from the sources unless somebody holds. Held ones leave epoll: a hang-up would wake it for ever."""
        wanted = set(self._sources) if self._opened and not self._holders else set()
        for fd in self._watched - wanted:
            self._loop.remove(fd)
        for fd in wanted - self._watched:
            self._loop.add(fd, select.EPOLLIN, functools.partial(self._readable, fd))
        self._watched = wanted
        self._watch_input()

    def _readable(self, fd: int, events: int) -> None:
        if fd == self._console and events & select.EPOLLOUT:
            self._write_input()
        if events == select.EPOLLHUP and fd != self._console and fd in self._sources:
            # An empty pipe without writers has ended.
            self._source_ended(fd)
        elif events & ~select.EPOLLOUT and fd in self._sources and self._read(fd) and self._drained is not None:
            self._note_news()

    def _read(self, fd: int) -> bool:
        """Read once; whether there was something."""
        stream = self._sources[fd]
        try:
            chunk = self.log.take(stream, fd, terminal=fd == self._console)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        if not chunk:
            self._source_ended(fd)
            return False
        self.log.write(stream, chunk)
        for peer in tuple(self._peers):
            peer.offer(stream, chunk)
        return True

    def _source_ended(self, fd: int) -> None:
        if fd == self._console and not self._exited:
            # Nobody has the terminal open just now; the process may open it again.
            self._loop.remove(fd)
            self._watched.discard(fd)
            self._loop.later(_CONSOLE_RETRY, self._watch_sources)
            return
        stream = self._sources[fd]
        self._close_source(fd)
        self.log.end(stream)
        if self._drained is not None:
            self._note_news()

    def _close_source(self, fd: int) -> None:
        self._loop.remove(fd)
        self._watched.discard(fd)
        del self._sources[fd]
        if fd == self._console:
            self._console = self._stdin = -1
        os.close(fd)

    def _note_news(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._sources:
            self._idle = self._loop.later(DRAIN_IDLE, self._end_drain)
        else:
            self._end_drain()

    def _end_drain(self) -> None:
        done, self._drained = self._drained, None
        if done is None:
            return
        for timer in (self._idle, self._longest):
            if timer is not None:
                timer.cancel()
        for fd, stream in tuple(self._sources.items()):
            self._close_source(fd)
            self.log.end(stream)
        self._close_stdin()
        done()

    def _let_input(self) -> None:
        self._write_input()
        for peer in tuple(self._peers):
            peer.resume_input()

    def _write_input(self) -> None:
        before = self._input_size
        while self._input and self._stdin >= 0:
            try:
                written = os.write(self._stdin, self._input[0])
            except BlockingIOError:
                break
            except OSError:
                # The process has closed its stdin: what is typed has no reader any more.
                self._forget_input()
                self._close_stdin()
                break
            self._input_size -= written
            self._input[0] = self._input[0][written:]
            if not self._input[0]:
                self._input.popleft()
        if self._opened and self._stdin < 0:
            self._forget_input()
        if self._stdin_closing and self._opened and not self._input:
            self._close_stdin()
        self._watch_input()
        self._balance_input(before)

    def _balance_input(self, before: int) -> None:
        if self._input_size > _INPUT_LIMIT:
            for peer in tuple(self._peers):
                peer.pause_input()
        elif before > _INPUT_LIMIT:
            for peer in tuple(self._peers):
                peer.resume_input()

    def _forget_input(self) -> None:
        self._input.clear()
        self._input_size = 0

    def _watch_input(self) -> None:
        """EPOLLOUT while input waits: on the pipe of its own, or beside EPOLLIN on the terminal."""
        if not self._opened or self._stdin < 0:
            return
        fd = self._stdin
        wanted = select.EPOLLOUT if self._input else 0
        if fd == self._console:
            if fd in self._watched:
                self._loop.change(fd, select.EPOLLIN | wanted)
            return
        self._loop.remove(fd)
        if wanted:
            self._loop.add(fd, wanted, lambda _events: self._write_input())

    def _close_stdin(self) -> None:
        if self._stdin >= 0 and self._stdin != self._console:
            self._loop.remove(self._stdin)
            os.close(self._stdin)
            self._stdin = -1
            if not self.stdin_once:
                self._stdin_gone()


def _writable_pipe(*, lasting: bool) -> tuple[int, int]:
    """Both ends, ours non-blocking. The writer of a lasting one is a reader, too, so there always is one (pipe(7))."""
    if not lasting:
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ours, False)
        return ours, theirs
    # Of the writer only what leads to it is non-blocking: who opens it anew is asked how.
    ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return ours, os.open(f"/proc/self/fd/{theirs}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        os.close(ours)
        raise
    finally:
        os.close(theirs)


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
    descriptors.clear()


def _nothing() -> None:
    """Nobody keeps duplicates."""


def _set_window_size(console: int, height: int, width: int) -> None:
    fcntl.ioctl(console, termios.TIOCSWINSZ, struct.pack("HHHH", min(height, 0xFFFF), min(width, 0xFFFF), 0, 0))
