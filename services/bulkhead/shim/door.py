"""stdio.sock: a client says in one JSON line what it wants, gets one back, and then has its stream.

{"op":"attach","stdin":true,"stdout":true,"stderr":true,"detach_keys":"","request_id":"..."}
{"op":"new","container":"...","spec":{...}}  creates an exec, see new_execs; the next line may start it
{"op":"exec","exec_id":"...", as above}     starts the registered exec
{"op":"start","exec_id":"...","height":0,"width":0}  with the streams that it was created for
{"op":"follow"}                             pokes when the log has grown
{"op":"news"}                               lines about new execs, see new_execs; no answer before
{"op":"keep"}                               duplicates of the container's descriptors: see custody
<- {"ok":true,"tty":false}, of a new exec with its "exec_id", or {"ok":false,"error":"...","kind":"NotFound"}
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from bulkhead.errors import BulkheadError, Conflict, InvalidArgument
from bulkhead.shim import detach
from bulkhead.shim.container import Container
from bulkhead.shim.execs import Exec, Execs
from bulkhead.shim.loop import Loop, Timer
from bulkhead.shim.new_execs import NewExecs
from bulkhead.shim.peers import Peer
from bulkhead.shim.stdio import STDERR, STDOUT, Streams
from bulkhead.wire.acceptor import Acceptor

_LINE_LIMIT = 64 << 10
_LINE_TIMEOUT = 10.0
_MOST_PEERS = 512
_MOST_LINGERING = 32
_TERMINAL, _PIPES = (json.dumps({"ok": True, "tty": tty}).encode() + b"\n" for tty in (True, False))


class Door:
    """Accepts clients on the stdio socket and hands each to what it asked for."""

    def __init__(
        self,
        loop: Loop,
        container: Container,
        execs: Execs,
        new_execs: NewExecs,
        report: Callable[[str, BaseException], None],
    ) -> None:
        self._loop = loop
        self._container = container
        self._execs = execs
        self._new_execs = new_execs
        self._report = report
        self._acceptor = Acceptor(loop, self._admit)
        # In the order of their coming.
        self._knocking: dict[_Knock, None] = {}
        # Who have created an exec, and start it as a rule.
        self._lingering: set[_Knock] = set()

    def listen(self, listener: socket.socket) -> None:
        """Accept on `listener`, which the door owns from now on; it replaces a former one."""
        self._acceptor.listen(listener)

    @property
    def expects_somebody(self) -> bool:
        """Whether somebody has come who has not said yet what he wants."""
        return bool(self._knocking)

    def admit_all(self) -> None:
        """Those, too, who have come and were not accepted yet."""
        self._acceptor.admit_all()

    def stop_listening(self) -> None:
        """Accept no more; streams live on. Who has come is answered, and so knows why he is refused."""
        self._acceptor.admit_all()
        self._acceptor.stop()
        for knock in tuple(self._lingering):
            if not knock.heard():
                knock.drop()

    def close(self) -> None:
        """Accept no more, and hang up on those who have not said what they want."""
        self.stop_listening()
        for knock in (*self._knocking, *self._lingering):
            knock.drop()

    def _admit(self, sock: socket.socket) -> None:
        knock = _Knock(self._loop, sock, self._asked, self._knocking.pop)
        if knock.heard():
            return
        # Who has just dialled may have been pushed off this processor by us, before he could say what he wants.
        os.sched_yield()
        if knock.heard():
            return
        if len(self._knocking) >= _MOST_PEERS:
            # Whoever has said nothing for longest has had time to.
            next(iter(self._knocking)).drop()
        self._knocking[knock] = None
        knock.wait()

    def _asked(self, sock: socket.socket, line: bytes, rest: bytes) -> None:
        """The client's line is complete; the socket is ours now, and what it sent behind the line."""
        try:
            wish = _parse(line)
            self._handler(str(wish.get("op")))(sock, wish, rest)
        except BulkheadError as error:
            _refuse(sock, error)
        except Exception as error:
            self._report("cannot serve a stdio client", error)
            _refuse(sock, error)

    def _handler(self, operation: str) -> Callable[[socket.socket, dict[str, Any], bytes], None]:
        match operation:
            case "exec":
                return self._exec
            case "start":
                return self._start
            case "new":
                return self._new
            case "attach":
                return self._attach
            case "follow":
                return self._follow
            case "keep":
                return self._keep
            case "news":
                return self._news
        raise InvalidArgument(f"cannot do {operation!r}: no such operation")

    def _new(self, sock: socket.socket, wish: dict[str, Any], rest: bytes) -> None:
        spec = wish.get("spec")
        one = self._new_execs.create(str(wish.get("container") or ""), spec if isinstance(spec, dict) else {})
        _say(sock, f'{{"ok":true,"tty":false,"exec_id":"{one.exec_id}"}}\n'.encode())
        if len(self._lingering) >= _MOST_LINGERING:
            sock.close()
            return
        knock = _Knock(self._loop, sock, self._asked, self._lingering.discard, rest)
        self._lingering.add(knock)
        knock.wait()

    def _attach(self, sock: socket.socket, wish: dict[str, Any], rest: bytes) -> None:
        keys = detach.parse(str(wish.get("detach_keys") or ""))
        _answer(sock, tty=self._container.tty)
        self._connect(sock, wish, self._container.streams, keys, rest)

    def _exec(self, sock: socket.socket, wish: dict[str, Any], rest: bytes) -> None:
        self._run(sock, self._execs.startable(str(wish.get("exec_id") or "")), wish, rest)

    def _start(self, sock: socket.socket, wish: dict[str, Any], rest: bytes) -> None:
        one = self._execs.startable(str(wish.get("exec_id") or ""))
        self._run(sock, one, _as_created(one, wish), rest)

    def _run(self, sock: socket.socket, one: Exec, wish: dict[str, Any], rest: bytes) -> None:
        keys = detach.parse(str(wish.get("detach_keys") or ""))

        def begun() -> None:
            # Only now: who answers wakes his client, who wants the same processor as the process that comes up.
            try:
                _answer(sock, tty=one.tty)
            except Conflict:
                sock.close()  # nobody is there any more; what he has asked for is under way
                return
            self._connect(sock, wish, one.streams, keys, rest)

        try:
            self._execs.start(
                one,
                stdin=_flag(wish, "stdin"),
                stdout=_flag(wish, "stdout"),
                stderr=_flag(wish, "stderr"),
                begun=begun,
            )
        except BulkheadError:
            # The client has been told in the stream, and the exec's state keeps the code.
            return

    def _connect(self, sock: socket.socket, wish: dict[str, Any], streams: Streams, keys: bytes, rest: bytes) -> None:
        wants = {number for number, name in ((STDOUT, "stdout"), (STDERR, "stderr")) if _flag(wish, name)}
        peer = Peer(
            self._loop,
            sock,
            streams,
            accepts_input=_flag(wish, "stdin"),
            wants=frozenset(wants),
            detach_keys=keys,
        )
        streams.attach(peer)
        peer.first_input(rest)

    def _follow(self, sock: socket.socket, wish: dict[str, Any], rest: bytes) -> None:
        _answer(sock, tty=False)
        self._container.followers.add(sock)

    def _news(self, sock: socket.socket, wish: dict[str, Any], rest: bytes) -> None:
        self._new_execs.tell_to(sock)

    def _keep(self, sock: socket.socket, wish: dict[str, Any], rest: bytes) -> None:
        _answer(sock, tty=False)
        self._container.custody.join(sock)


class _Knock:
    """A client whose line is not complete yet."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        asked: Callable[[socket.socket, bytes, bytes], None],
        gone: Callable[[_Knock], object],
        begun: bytes = b"",
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._asked = asked
        self._gone = gone
        self._buffer = begun
        self._timer: Timer | None = None

    def heard(self) -> bool:
        """Read what has come. Whether that was all: the line is passed on, or the client dropped."""
        try:
            data = self._socket.recv(_LINE_LIMIT)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self._buffer += data
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline and data and len(line) <= _LINE_LIMIT:
            return False
        self._leave()
        if newline and len(line) <= _LINE_LIMIT:
            self._asked(self._socket, line, rest)
        elif data:
            _refuse(self._socket, InvalidArgument(f"cannot read request: its line exceeds {_LINE_LIMIT} bytes"))
        else:
            self._socket.close()
        return True

    def wait(self) -> None:
        """Hear the rest when it comes, for a while. Most clients have said all before they are accepted."""
        self._timer = self._loop.later(_LINE_TIMEOUT, self.drop)
        self._loop.add(self._socket.fileno(), select.EPOLLIN, self._ready)

    def _ready(self, _events: int) -> None:
        self.heard()

    def drop(self) -> None:
        """Hang up, whatever it was about to say."""
        self._leave()
        self._socket.close()

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._loop.remove(self._socket.fileno())
            self._gone(self)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        wish = json.loads(line.decode())
    except ValueError as error:
        raise InvalidArgument(f"cannot read request: {error}") from error
    if not isinstance(wish, dict):
        raise InvalidArgument("cannot read request: not a JSON object")
    return wish


def _flag(wish: dict[str, Any], name: str) -> bool:
    return wish.get(name) is True


def _as_created(one: Exec, wish: dict[str, Any]) -> dict[str, Any]:
    """With the streams that it was created for. Raises Conflict where the manager has to say: he has kept them to
    himself, or there are others to say how large its terminal is."""
    if not one.record:
        raise Conflict(f"cannot start exec {one.exec_id}: the manager is to be asked for its streams")
    spec = one.asked
    size = wish.get("height") or 0, wish.get("width") or 0
    if any(size) and size != (spec.get("height"), spec.get("width")):
        raise Conflict(f"cannot start exec {one.exec_id}: the manager is to be asked for its terminal")
    wanted = {name: spec.get(f"attach_{name}") is True for name in ("stdin", "stdout", "stderr")}
    return {**wish, **wanted, "detach_keys": spec.get("detach_keys")}


def _answer(sock: socket.socket, *, tty: bool) -> None:
    _say(sock, _TERMINAL if tty else _PIPES)


def _say(sock: socket.socket, line: bytes) -> None:
    try:
        sock.send(line, socket.MSG_NOSIGNAL)
    except OSError as error:
        # A fresh socket takes a line; one that does not has lost its client.
        raise Conflict(f"cannot answer: {error.strerror}") from error


def _refuse(sock: socket.socket, error: BaseException) -> None:
    kind = type(error).__name__ if isinstance(error, BulkheadError) else "Internal"
    text = json.dumps({"ok": False, "error": str(error), "kind": kind}).encode() + b"\n"
    try:
        sock.send(text, socket.MSG_NOSIGNAL)
    except OSError:
        pass
    finally:
        sock.close()
