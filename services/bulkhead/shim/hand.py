"""Who writes to a disk that may be slow, while the shim goes on."""

from __future__ import annotations

import _thread
import errno
import os
import select
from collections.abc import Callable

from bulkhead.shim.loop import Loop
from bulkhead.shim.rotation import RotatingFile


class Hand:
    """A thread that writes, so that a write which takes long stops nothing else. One job at a time.

    Raises OSError when there can be no thread, or no descriptor for its answers.
    """

    def __init__(self, file: RotatingFile, loop: Loop, done: Callable[[OSError | None, int], None]) -> None:
        self._file = file
        self._loop = loop
        self._done = done
        self._job: bytes | None = None
        self._failure: OSError | None = None
        self._written = 0
        self._closing = False
        self._dismissed = False
        self._told = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._work = _thread.allocate_lock()
        self._work.acquire()
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError as error:
            os.close(self._told)
            raise OSError(errno.EAGAIN, str(error)) from error
        loop.add(self._told, select.EPOLLIN, self._heard)

    def offer(self, records: bytes | None) -> None:
        """Write `records` unless something is being written already."""
        if records is not None and self._job is None:
            self._job = records
            self._work.release()

    def close(self) -> None:
        """Close the file once the write under way, if any, has returned."""
        self._closing = True
        self._loop.remove(self._told)
        if self._job is None:
            self._work.release()

    def dismiss(self) -> bool:
        """End the thread, not the file; False while something is being written, and once it is to end by itself."""
        if self._job is not None or self._closing:
            return False
        self._loop.remove(self._told)
        # All that the thread had to tell was heard.
        os.close(self._told)
        self._dismissed = True
        self._work.release()
        return True

    def _run(self) -> None:
        while True:
            self._work.acquire()
            if self._dismissed:
                return
            if self._job is not None:
                try:
                    self._written = self._file.write(self._job)
                except OSError as error:
                    self._failure = error
            if self._closing:
                self._file.close()
                # Nobody hears it any more.
                os.close(self._told)
                return
            os.eventfd_write(self._told, 1)

    def _heard(self, _events: int) -> None:
        os.eventfd_read(self._told)
        failure, self._failure, self._job = self._failure, None, None
        self._done(failure, self._written)
