"""Layers on their way out: renamed here at once, deleted later by one owned, niced thread.

    <data>/snapshots/trash/<random>     never read again; whatever is found here at boot is deleted too

Throwing is one rename(2), so that whoever throws waits for nothing, and a tree is either whole or gone. What is small
and missed by nobody, as the files of most containers, is not worth the way through two threads: `clear` deletes it
where it is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import structlog

from bulkhead.content.durable import disk_errors
from bulkhead.linux.threads import Threads
from bulkhead.manager.adapters import small_trees

log = structlog.get_logger()
# How long the deleting thread works before it looks whether it should wait (seconds).
_SLICE = 0.1
# No descriptors, no memory: that passes, and is looked for so often.
_PASSING, _WANT_SECONDS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM), 1.0
# No more: it holds the interpreter's lock between two calls, and loses its core with it. On a machine with eight at
# work for each core all other threads waited up to a second for one of nice 15, fifteen milliseconds for one of 5.
_NICE = 5


class Trash:
    """Owner of the directory and of the task that empties it; an async context manager."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._news = asyncio.Event()
        self._empty = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._busy = 0
        self._hopeless: set[str] = set()
        self._thread = Threads(1, "trash", _be_nice)
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._home = threading.get_ident()

    async def __aenter__(self) -> Trash:
        with disk_errors(f"open {self._root}"):
            make_private(self._root)
        self._news.set()
        self._loop, self._home = asyncio.get_running_loop(), threading.get_ident()
        self._task = asyncio.create_task(self._reap())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._thread.shutdown(wait=True)

    def throw(self, path: Path) -> bool:
        """Take a file or tree out of sight; whether it was there. Raises ResourceExhausted, Internal.

        Blocking: a disk may stand still. From any thread.
        """
        with disk_errors(f"remove {path}"):
            try:
                path.rename(self._root / secrets.token_hex(12))
            except FileNotFoundError:
                return False
        if self._loop is None or threading.get_ident() == self._home:
            self._thrown()
        else:
            self._loop.call_soon_threadsafe(self._thrown)
        return True

    def clear(self, path: Path) -> None:
        """Take away a file or tree that no record knows any more: at once if it is small, or else thrown.

        Raises ResourceExhausted, Internal. Blocking. From any thread.
        """
        if not self.is_paused:
            with contextlib.suppress(OSError), small_trees.opened(path.parent) as parent:
                small_trees.erase(parent, path.name)
                return
        self.throw(path)

    @property
    def is_paused(self) -> bool:
        """Whether nothing is to be deleted now."""
        return not self._quiet.is_set()

    def _thrown(self) -> None:
        self._empty.clear()
        self._news.set()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Delete nothing meanwhile: on ext4 new files beside fresh deletions are several times as slow."""
        self._busy += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._quiet.set()

    async def emptied(self) -> None:
        """Wait until all that was thrown is gone, pauses or not: somebody needs the space."""
        self._quiet.set()
        try:
            await self._empty.wait()
        finally:
            if self._busy:
                self._quiet.clear()

    async def _reap(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._news.wait()
            self._news.clear()
            more = True
            while more:
                await self._quiet.wait()
                try:
                    more = await loop.run_in_executor(self._thread, self._reap_some)
                except OSError as error:
                    more = error.errno in _PASSING
                    log.warning("cannot empty the trash", reason=error.strerror)
                    if more:
                        await asyncio.sleep(_WANT_SECONDS)
            if not self._news.is_set():
                self._empty.set()

    def _reap_some(self) -> bool:
        """Delete for one slice of time; whether anything is left."""
        end = time.monotonic() + _SLICE
        root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while True:
                present = os.listdir(root)  # noqa: PTH208 (a descriptor, not a path)
                names = [name for name in present if name not in self._hopeless]
                if not names:
                    return False
                for name in names:
                    self._reap_one(root, name)
                    if time.monotonic() > end:
                        return True
        finally:
            os.close(root)

    def _reap_one(self, root: int, name: str) -> None:
        try:
            _flatten(root, name)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno in _PASSING:
                raise
            # Reported once per life; the next boot tries again.
            self._hopeless.add(name)
            log.warning("cannot delete from the trash", name=name, reason=error.strerror)


def make_private(path: Path) -> None:
    """A directory that only we may enter, whatever the umask and whoever made it before. Raises OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)


def _flatten(root: int, name: str) -> None:
    """Delete one directory's files, move its subdirectories up to the trash itself, remove it.

    No recursion: a container can make a tree far deeper than any stack or descriptor table.
    """
    try:
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=root)
        return
    try:
        with os.scandir(directory) as entries:
            for entry in list(entries):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=directory)
                elif not small_trees.removed(directory, entry.name):
                    os.rename(entry.name, secrets.token_hex(12), src_dir_fd=directory, dst_dir_fd=root)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=root)


def _be_nice() -> None:
    # setpriority(2) with a thread id concerns that thread alone on Linux.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
