"""Memory that forks share again: what is given back reads as before, and what differs stays."""

from __future__ import annotations

import subprocess
import sys
import textwrap

_PROLOGUE = """
import _thread, errno, os, re
from bulkhead import nsexec

def private():
    with open("/proc/self/smaps_rollup", "rb") as file:
        return int(re.search(rb"Private_Dirty: +(\\d+)", file.read())[1]) << 10

def forked(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

private()
# 8 MiB; small objects would be at places that differ from run to run.
block = bytearray(b"a" * (8 << 20))
"""


def _run(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROLOGUE + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_as_it_was_is_shared_again_and_what_is_not_stays() -> None:
    _run(
        """
        assert nsexec.share_memory() > 8 << 20

        def child():
            for place in range(0, len(block), 4096):
                block[place] = ord("b")
            block[4 << 20:] = b"a" * (4 << 20)
            before = private()
            given = nsexec.give_back_memory()
            assert given >= (4 << 20) - 8192, given
            # Counting writes to memory, too.
            assert before - private() >= 2 << 20, (before, private())
            assert block[: 4 << 20] == (b"b" + b"a" * 4095) * 1024
            assert block[4 << 20 :] == b"a" * (4 << 20)
            block[-1] = ord("c")
            assert block[-2:] == b"ac"

        forked(child)
        assert block == b"a" * (8 << 20)
        """
    )


def test_other_memory_in_the_place_of_what_was_freed_keeps_its_content() -> None:
    """Also where that is what the picture says: the interpreter's table of names, made anew, lost its pages."""
    _run(
        """
        import ctypes, mmap
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        start = ctypes.addressof(ctypes.c_char.from_buffer(block)) + 4095 & -4096
        assert nsexec.share_memory() > 8 << 20

        def child():
            anew = (mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10, -1, 0)  # MAP_FIXED
            assert libc.mmap(ctypes.c_void_p(start), ctypes.c_size_t(4 << 20), *anew) == start
            assert block[8192] == 0
            block[:] = b"a" * len(block)
            for _ in range(2):
                nsexec.give_back_memory()
                assert block == b"a" * len(block)
                block[0 : 8 << 20 : 4096] = block[0 : 8 << 20 : 4096]

        forked(child)
        """
    )


def test_a_picture_is_not_changed_by_the_process_that_took_it() -> None:
    _run(
        """
        nsexec.share_memory()
        block[:4096] = b"x" * 4096
        def child():
            assert block[:4097] == b"x" * 4096 + b"a"
            nsexec.give_back_memory()
            assert block[:4097] == b"x" * 4096 + b"a"
        forked(child)
        """
    )


def test_what_a_model_has_made_of_it_is_shared_by_all_who_make_the_same_of_it() -> None:
    _run(
        """
        nsexec.share_memory()
        assert not nsexec.has_likeness()
        a, b, size = b"a" * 4096, b"b" * 4096, 2 << 20

        def live():
            for place in range(0, size, 4096):
                block[place : place + 4096] = b

        def model():
            live()
            nsexec.be_model()
            nsexec.give_back_memory()

        def check(what):
            before = private()
            given = nsexec.give_back_memory()
            assert given >= size - 8192, given
            assert before - private() >= size >> 1, (before, private())
            assert block[:size] == what * (size // 4096)
            assert block[size:] == b"a" * len(block[size:])

        def child():
            live()
            check(b)
            block[0] = ord("x")
            nsexec.give_back_memory()
            assert block[:4097] == b"x" + b[1:] + b"b"
            block[:size] = a * (size // 4096)
            check(a)
            live()
            check(b)
            # As in the model's life from here on: nothing but what is written.
            block[size - 1] = ord("y")
            assert block[size - 2 : size + 1] == b"bya"

        forked(model)
        assert nsexec.has_likeness()
        forked(child)
        assert block == b"a" * len(block)
        """
    )


def test_there_is_one_model_and_what_it_leaves_cannot_be_changed() -> None:
    _run(
        """
        nsexec.share_memory()
        def model():
            nsexec.be_model()
            nsexec.give_back_memory()
        forked(model)
        size = lambda: [os.stat(f"/proc/self/fd/{fd}").st_size for fd in os.listdir("/proc/self/fd")
                        if "likeness" in os.path.realpath(f"/proc/self/fd/{fd}")]
        before = size()
        forked(model)
        assert len(before) == 1 and size() == before
        """
    )


def test_there_is_no_model_without_a_picture() -> None:
    _run(
        """
        try:
            nsexec.be_model()
        except OSError as error:
            assert error.errno == errno.ENOENT
        else:
            raise AssertionError
        assert not nsexec.has_likeness()
        """
    )


def test_the_interpreter_goes_on_with_memory_that_was_replaced_again_and_again() -> None:
    _run(
        """
        nsexec.share_memory()
        def child():
            kept = []
            for turn in range(50):
                kept.append({str(number): [number] * 10 for number in range(turn * 20)})
                import json, random
                assert json.loads(json.dumps(kept)) == kept
                del kept[: random.randrange(len(kept))]
                nsexec.give_back_memory()
        forked(child)
        forked(lambda: forked(child))
        """
    )


def test_nothing_is_taken_from_other_threads() -> None:
    _run(
        """
        import time
        nsexec.share_memory()
        def child():
            lock = _thread.allocate_lock()
            lock.acquire()
            _thread.start_new_thread(lock.acquire, ())
            try:
                nsexec.give_back_memory()
            except OSError as error:
                assert error.errno == errno.EBUSY
            else:
                raise AssertionError
            lock.release()
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                try:
                    nsexec.give_back_memory()
                    return
                except OSError:
                    time.sleep(0.01)
            raise AssertionError
        forked(child)
        """
    )


def test_without_a_picture_there_is_nothing_to_give_back() -> None:
    _run("assert nsexec.give_back_memory() == 0")


def test_what_one_fork_has_written_to_is_copied_at_once_in_the_next() -> None:
    _run(
        """
        import ctypes, struct
        nsexec.share_memory()
        start = (ctypes.addressof(ctypes.c_char.from_buffer(block)) + 4095) & ~4095
        told, tells = os.pipe()

        def pages(ranges):
            return {page for first, last in struct.iter_unpack("=QQ", ranges) for page in range(first, last, 4096)}

        def first():
            for number in (0, 1, 2, 700):
                block[start - ctypes.addressof(ctypes.c_char.from_buffer(block)) + number * 4096] = 1
            os.write(tells, nsexec.written_memory())
            os.close(tells)

        forked(first)
        os.close(tells)
        ranges = b""
        while more := os.read(told, 1 << 16):
            ranges += more
        inside = {(page - start) // 4096 for page in pages(ranges) if start <= page < start + (8 << 20) - 4096}
        assert inside == {0, 1, 2, 700}, inside

        def second():
            before = pages(nsexec.written_memory())
            nsexec.copy_memory(ranges)
            copied = pages(nsexec.written_memory()) - before
            assert {start + number * 4096 for number in inside} <= copied
            assert block == b"a" * (8 << 20)
            # They are as they were: all of it may be given back.
            assert nsexec.give_back_memory() >= 4 * 4096

        forked(second)
        """
    )


def test_pages_that_are_not_there_are_no_harm() -> None:
    _run(
        """
        import struct
        nsexec.copy_memory(b"")
        nsexec.copy_memory(struct.pack("=QQQQ", 4096, 8192, 1 << 62, (1 << 62) + 4096))
        """
    )
