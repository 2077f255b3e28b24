"""The zygote: a process that has imported all a shim needs, and does nothing but fork spare shims.

    python -m bulkhead.supervisor.zygote <cache directory> <fd of a SEQPACKET socket>

One byte received asks for one spare. The first is forked as soon as all is imported, so that a container need not wait
for the rest where that takes long, and its shim is slower and larger; those after it have rehearsed (see
shim.rehearsal). The answer carries the socket over which the spare will hear its identity (container id, run and data
directory between NULs, and as a fourth the label of the descriptors that come along: see shim.custody) and answer in
JSON (pid and start_time, or kind and error); "keeps" says that it will tell over the same socket what there is to keep
for it. When its container is gone, and nothing of it is left in the process, it says with one byte that it is a spare
again. The zygote ends with its socket, an unused spare with its own. A spare is forked twice into a session of its own,
so that init adopts it at once and it outlives supervisor and zygote.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from bulkhead import failpoints, nsexec, plainlog
from bulkhead.linux import fdpass, process, scheduling
from bulkhead.shim import (
    app,
    relay,  # noqa: F401 - imported by each shim that publishes a port, it would cost that 0.6 MB more
    upkeep,
)
from bulkhead.shim.custody import MOST_DESCRIPTORS, Estate
from bulkhead.shim.identity import Expected, Identity
from bulkhead.shim.rehearsal import Stage
from bulkhead.shim.reuse import Slate
from bulkhead.supervisor import stillness
from bulkhead.supervisor.model import Director
from bulkhead.supervisor.protocol import ASK, FREE, MESSAGE_LIMIT, heard

_NAME = "bulkhead-zygote"
_FORK_PAUSE_MS = 100
# As long as spares beyond those that always wait are kept (`spares`).
_REST_MS = 10_000
# A directory in the cache, with the pid of whom it is for.
_REHEARSAL = "rehearsal-"


def main(control_fd: int, shim: app.Shim, cache: Path) -> int:
    """Fork a spare per request until the supervisor goes away. `shim` is what each has inherited."""
    process.set_title(_NAME)
    scheduling.be_ordinary()
    app.prepare_process()
    control = socket.socket(fileno=control_fd)
    _clear_after_the_dead(cache)
    if not _is_asked(control):
        return 0
    _answer_with_spare(control, lambda link: _be_untaught(link, shim, cache))
    stage = Stage(f"{cache}/{_REHEARSAL}{os.getpid()}")
    app.rehearse(stage)
    filling = _share()
    pages = app.learn(shim, stage)
    stage.clear()
    sitting = _have_a_model_sit(control, shim, pages, cache)
    # Not before: what is rehearsed passes failpoints too, a thousand times, and they are not meant for it.
    failpoints.listen(str(cache.parent))

    def be_taught(link: socket.socket) -> None:
        os.close(sitting)
        _be_spare(link, shim, pages)

    while _is_asked(control):
        _answer_with_spare(control, be_taught)
    del filling
    return 0


def _answer_with_spare(control: socket.socket, be: Callable[[socket.socket], None]) -> None:
    """Fork one, which does not return from `be`, and tell where it can be reached."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if _fork_patiently(control):
        control.close()
        ours.close()
        be(theirs)
    theirs.close()
    with contextlib.suppress(ConnectionError):
        fdpass.send(control, ASK, [ours.fileno()])
    ours.close()


def _clear_after_the_dead(cache: Path) -> None:
    """Remove the directories of zygotes that were killed."""
    with contextlib.suppress(OSError):
        for name in os.listdir(cache):  # noqa: PTH208
            pid = name.removeprefix(_REHEARSAL)
            if pid != name and pid.isdecimal() and process.start_time(int(pid)) is None:
                shutil.rmtree(cache / name, ignore_errors=True)


def _share() -> list[object]:
    """Make this process one that forks share as long as they can; while what is returned lives."""
    stillness.still_code()
    upkeep.let_go()
    filling = stillness.fill_holes()
    # Without this the first collection in a child would write to, and so copy, every page with an object.
    gc.freeze()
    with contextlib.suppress(OSError):  # without it shims are larger, that is all
        nsexec.share_memory()
    return filling


def _is_asked(control: socket.socket) -> bool:
    """False when the supervisor is gone; if it was killed with our answers unread, that looks like a reset."""
    try:
        return bool(control.recv(1))
    except ConnectionError:
        return False


def close_inherited(control_fd: int) -> None:
    """Close what the supervisor's way of starting processes has leaked to this one. Before anything is opened."""
    os.closerange(3, control_fd)
    os.closerange(control_fd + 1, os.sysconf("SC_OPEN_MAX"))


def _fork_patiently(control: socket.socket) -> bool:
    """As `_fork_twice`, again and again while the host has no room for a process and the supervisor lives."""
    told = False
    gone = select.poll()
    gone.register(control, select.POLLHUP)
    while True:
        try:
            return _fork_twice()
        except OSError as error:
            if not told:
                plainlog.log_line(2, "warning", "cannot fork a spare shim", service=_NAME, error=str(error))
            told = True
        # Nothing else is waited for: what the supervisor asks meanwhile stays in the socket.
        if gone.poll(_FORK_PAUSE_MS):
            sys.exit(0)


def _fork_twice() -> bool:
    """True in the grandchild, whose parent is init or the nearest subreaper; False in this process.

    Raises OSError when the host allows no more processes; nothing of the attempt is left then.
    """
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if status:
            number = os.waitstatus_to_exitcode(status)
            raise OSError(number, os.strerror(number))
        return False
    try:
        os.setsid()
        grandchild = os.fork()
    except OSError as error:
        os._exit(error.errno or 1)
    if grandchild:
        os._exit(0)
    return True


def _have_a_model_sit(control: socket.socket, shim: app.Shim, pages: bytes, cache: Path) -> int:
    """In the background; it ends with all copies of the descriptor that is returned."""
    theirs, ours = os.pipe2(os.O_CLOEXEC)
    if _fork_patiently(control):
        control.close()
        os.close(ours)

        def live(stage: Stage, link: socket.socket) -> None:
            shim.launch_by(stage.launcher())
            _be_spare(link, shim, pages)

        try:
            Director(f"{cache}/{_REHEARSAL}{os.getpid()}", live, theirs).run()
        finally:
            os._exit(0)
    os.close(theirs)
    return ours


def _be_untaught(theirs: socket.socket, shim: app.Shim, cache: Path) -> None:
    """A spare of a zygote that has nothing but its imports."""
    failpoints.listen(str(cache.parent))
    gc.freeze()
    _be_spare(theirs, shim, b"", once=True)


def _be_spare(theirs: socket.socket, shim: app.Shim, pages: bytes, *, once: bool = False) -> None:
    """Live as the shim of one container after the other, or of one, and leave without the zygote's clean-up."""
    status = 1
    try:
        _to_null()
        slate = Slate()
        shim.get_ready(pages)
        slate.weigh()
        status = _be_shim(theirs, shim)
        while not once and not status and _is_wanted(theirs) and shim.retire() and slate.is_clean():
            failpoints.hit("shim.retire.clean")
            shim = _anew()
            theirs.send(FREE, socket.MSG_NOSIGNAL)
            failpoints.hit("shim.retire.told")
            status = _be_shim(theirs, shim)
    except BaseException as error:
        plainlog.log_line(2, "error", "a spare shim died", service=_NAME, error=repr(error))
    finally:
        try:
            shim.end()
        finally:
            os._exit(status)


def _be_shim(theirs: socket.socket, shim: app.Shim) -> int:
    """Wait for an identity, and live its life; the exit status. Nobody may come any more."""
    _rest_unless_wanted(theirs)
    told, descriptors = fdpass.receive(theirs, MESSAGE_LIMIT, MOST_DESCRIPTORS)
    if not told:
        return 0
    identity, estate, expected = _heard(told, descriptors)

    def ready(problem: str) -> None:
        _answer(theirs, shim.started, problem)
        if not problem:
            shim.confide(theirs, heir=estate is not None)

    return shim.live(identity, ready, estate, expected)


def _rest_unless_wanted(theirs: socket.socket) -> None:
    """What was copied for a life that does not come soon is given back: three quarters of a spare's memory.

    Each of those pages is copied in that life then, when it is written to: one of the first lives after a rest takes
    a millisecond longer.
    """
    wanted = select.poll()
    wanted.register(theirs, select.POLLIN)
    if not wanted.poll(_REST_MS):
        upkeep.let_go()
        with contextlib.suppress(OSError):  # it stays as large as it is
            nsexec.give_back_memory()


def _is_wanted(theirs: socket.socket) -> bool:
    """False when the supervisor that this spare was made for has ended, or has let go of it."""
    gone = select.poll()
    gone.register(theirs, 0)
    return not gone.poll(0)


def _anew() -> app.Shim:
    """What the zygote gives its spares."""
    process.set_title(_NAME)
    shim = app.engine_shim()
    shim.settle()
    return shim


def _to_null() -> None:
    """Let go of the supervisor's log. All else this process has is its own, or was made for it (the stage)."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.close(null)


def _heard(told: bytes, descriptors: list[int]) -> tuple[Identity, Estate | None, Expected]:
    container_id, run_dir, data_dir, *more = told.decode().split("\0")
    expected, labels = heard(more)
    estate = Estate.labelled(json.loads(labels[0]), descriptors) if labels else None
    return Identity(container_id, run_dir, data_dir), estate, expected


def _answer(link: socket.socket, started: int | None, problem: str) -> None:
    """Say that the sockets listen, or what is wrong."""
    answer = problem or f'{{"pid":{os.getpid()},"start_time":{started},"keeps":true}}'
    link.send(answer.encode(), socket.MSG_NOSIGNAL)


if __name__ == "__main__":
    close_inherited(int(sys.argv[2]))
    place = Path(sys.argv[1])
    app.preload(place)
    sys.exit(main(int(sys.argv[2]), app.engine_shim(), place))
