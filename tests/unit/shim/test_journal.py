"""Whatever moment a shim dies at, its successor's log has each line once. The crash is a second JsonFile."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import select
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.shim.journal import HOPPER_IN, Journal, Kind, Place
from bulkhead.shim.jsonfile import Encoder
from bulkhead.shim.logs import JsonFile
from bulkhead.shim.loop import Loop
from bulkhead.shim.sinks import LogTarget

NOW = 1_700_000_000_000_000_000


class Unbraked:
    def hold(self, holder: object) -> None: ...
    def unhold(self, holder: object) -> None: ...


class Shims:
    """One container's, one after another, of one log file; whoever is dead never turns its loop again."""

    def __init__(self, path: Path, *, max_size: int = 0, max_file: int = 3, terminal: bool = False) -> None:
        self.path = path
        self.target = LogTarget(path=str(path), max_size=max_size, max_file=max_file)
        self.terminal = terminal
        self.source, self.container = pty.openpty() if terminal else os.pipe()
        if terminal:
            tty.setraw(self.container)
        os.set_blocking(self.source, False)
        self.kept: dict[str, int] = {}
        self.first()

    def first(self) -> None:
        self.journal = Journal.make(terminal=self.terminal)
        self._open(None)

    def die(self) -> None:
        """The descriptors are all that a successor has."""
        kept = {name: os.dup(fd) for name, fd in self.journal.descriptors.items()}
        hand = self.log._hand
        if hand is not None and hand._job is not None:
            # A thread cannot be killed: its write has been made, and nobody heard.
            select.select([hand._told], [], [])
        self.log.close()
        found = Journal.inherited(kept)
        assert found is not None
        self.journal, left = found
        self._open(left)

    def _open(self, left: object) -> None:
        self.loop = Loop(_unexpected)
        self.loop.open()
        self.log = JsonFile(self.target, self.loop, Unbraked(), lambda: None, self.journal, left)  # type: ignore[arg-type]

    def say(self, text: bytes, stream: int = 1) -> None:
        """The container says it, and the shim takes it."""
        os.write(self.container, text)
        taken = 0
        while not taken or (self.terminal and taken < len(text)):
            select.select([self.source], [], [])  # a terminal hands over when the kernel finds the time, in pieces
            piece = self.log.take(stream, self.source, terminal=self.terminal)
            self.log.write(stream, piece)
            taken += len(piece)

    def settle(self) -> None:
        """Everything is in the file, and the shim knows."""
        done: list[bool] = []
        self.log.finish(lambda: done.append(True))
        while not done:
            self.loop.turn(1.0)

    def settled(self) -> str:
        self.settle()
        return logged(*(Path(f"{self.path}.{number}") for number in (2, 1)), self.path)


def _unexpected(event: str, error: BaseException) -> None:
    raise AssertionError(event) from error


def logged(*paths: Path) -> str:
    lines = b"".join(path.read_bytes() for path in paths if path.exists()).splitlines()
    return "".join(json.loads(line)["log"] for line in lines)


@pytest.fixture
def shims(tmp_path: Path) -> Iterator[Shims]:
    shims = Shims(tmp_path / "log")
    yield shims
    shims.log.close()


def begun(shims: Shims, text: bytes) -> bytes:
    """As a shim that dies once the records of `text` have an entry: those records."""
    os.write(shims.container, text)
    carried = len(shims.log._encoders[1].line)
    encoder = Encoder("stdout")
    encoder.resume(shims.log._encoders[1].line)
    chunk = shims.journal.take(1, shims.source, terminal=False)
    shims.journal.add(Kind.CHUNK, 1, NOW, size=carried + len(chunk))
    return encoder.feed(chunk, NOW)


@pytest.mark.parametrize("written", [None, 0, 1, 40, -1])
def test_a_chunk_is_logged_once(shims: Shims, written: int | None) -> None:
    """`written` bytes of the chunk's records were in the file when the shim died; None: it was only taken."""
    shims.say(b"one\ntwo\nthr")
    shims.settle()
    if written is None:
        os.write(shims.container, b"ee\nfour\nfi")
        shims.journal.take(1, shims.source, terminal=False)
    else:
        records = begun(shims, b"ee\nfour\nfi")
        with shims.path.open("ab") as file:
            file.write(records[:written] if written >= 0 else records)
    shims.die()
    shims.say(b"ve\n")
    assert shims.settled() == "one\ntwo\nthree\nfour\nfive\n"


def test_chunks_that_wait_are_logged_in_their_order(shims: Shims) -> None:
    """Nobody turns the loop: every chunk waits, the first perhaps written by then."""
    for number in range(200):
        shims.say(b"%d\n%d" % (number, number), stream=1 + number % 2)
    shims.die()
    shims.die()
    text = shims.settled()
    assert sorted(text.replace("\n", "")) == sorted("".join(f"{n}{n}" for n in range(198)) + "198199")
    for stream in (1, 2):
        shims.log.end(stream)
    whole = shims.settled()
    assert (whole[: len(text)], whole[len(text) :]) == (text, "198199")


def test_what_was_logged_is_not_logged_again_though_its_memory_is_gone(shims: Shims) -> None:
    lines = [b"%05d%s\n" % (number, b"x" * 1000) for number in range(500)]
    for at in range(0, 500, 20):
        shims.say(b"".join(lines[at : at + 20]))
        shims.settle()
    shims.die()
    assert shims.settled() == b"".join(lines).decode()
    # Pages of what is logged were given back: half a megabyte has gone through.
    assert os.fstat(shims.journal.descriptors["journal1"]).st_blocks * 512 <= 64 << 10


def test_the_last_line_without_its_end_is_logged_once(shims: Shims) -> None:
    shims.say(b"one\ntw")
    shims.log.end(1)
    shims.die()
    shims.log.end(1)
    assert shims.settled() == "one\ntw"


@pytest.mark.parametrize("died", ["after a file", "before it was noted", "with a new file", "in a record"])
def test_rotations_in_between_are_seen_through(tmp_path: Path, died: str) -> None:
    """A chunk that fills several files: how far each goes is noted before it is rotated."""
    shims = Shims(tmp_path / "log", max_size=100, max_file=9)
    shims.say(b"one\n")
    shims.settle()
    records = begun(shims, b"two\nthree\nfour\nfive\n")
    file = shims.log._file
    for note in (True, died != "before it was noted"):
        written = file.write(records)
        records = records[written:]
        if note:
            shims.journal.partly_logged(written, file.place())
    assert [json.loads(line)["log"] for line in records.splitlines()] == ["five\n"]
    if died in ("with a new file", "in a record"):
        file._rotate()
        os.write(file._fd, records[:0] if died == "with a new file" else records[:20])
    shims.die()
    # Nor does it matter that the successor dies before it has done anything.
    shims.die()
    shims.settle()
    names = [Path(f"{shims.path}.{number}") for number in range(8, 0, -1)]
    assert logged(*names, shims.path) == "one\ntwo\nthree\nfour\nfive\n"


def test_a_record_that_was_cut_short_where_the_file_is_full_is_completed(tmp_path: Path) -> None:
    shims = Shims(tmp_path / "log", max_size=100)
    records = begun(shims, b"one\ntwo\n")
    shims.path.write_bytes(records[:100])
    shims.die()
    assert shims.settled() == logged(shims.path) == "one\ntwo\n"


def test_a_torn_record_without_a_journal_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b'{"log":"to')
    shims = Shims(tmp_path / "log")
    shims.say(b"next\n")
    shims.settle()
    torn, whole = (tmp_path / "log").read_bytes().splitlines()
    assert (torn, json.loads(whole)["log"]) == (b'{"log":"to', "next\n")


def test_what_was_dropped_stays_dropped_and_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    disk = os.open(tmp_path / "log", os.O_RDWR)
    shims = Shims(tmp_path / "log")
    shims.log._dropping = True
    shims.say(b"dropped\npar")
    shims.log._dropping = False
    os.close(disk)
    shims.path.unlink()
    shims.die()
    shims.say(b"tial\n")
    text = shims.settled()
    assert text.startswith("[bulkhead: 1 lines (")
    assert text.endswith("]\npartial\n")
    shims.die()
    assert shims.settled() == text


def test_what_was_dropped_is_told_though_the_container_says_no_more(shims: Shims) -> None:
    """The shim died when all that waited was logged, before the gap had its entry."""
    shims.say(b"logged\n")
    shims.settle()
    shims.log._dropping = True
    shims.say(b"dropped\n")
    shims.die()
    text = shims.settled()
    assert text.startswith("logged\n[bulkhead: 1 lines (")
    assert shims.log.unlogged() is None
    shims.die()
    assert shims.settled() == text


def fed(journal: Journal, chunk: bytes) -> None:
    """The journal has taken it from a container."""
    source, container = os.pipe()
    os.write(container, chunk)
    assert journal.take(1, source, terminal=False) == chunk
    os.close(source)
    os.close(container)


def test_what_waits_before_dropped_bytes_is_still_there_when_the_first_entry_is_logged() -> None:
    journal, chunks = Journal.make(), [bytes([number]) * (16 << 10) for number in range(1, 9)]
    journal.begin(Place())
    starts = []
    for chunk in chunks[:4]:
        starts.append(journal.position(1))
        fed(journal, chunk)
        journal.add(Kind.CHUNK, 1, NOW, size=len(chunk))
    for chunk in chunks[4:]:
        fed(journal, chunk)
        journal.dropped(1, len(chunk), journal.position(1), (1, len(chunk), 28))
    journal.logged(1, starts[1], Place(inode=1, size=1))
    found = Journal.inherited({name: os.dup(fd) for name, fd in journal.descriptors.items()})
    assert found is not None
    successor, left = found
    assert [successor.read(1, entry.start, entry.end) for entry in left.entries] == chunks[1:4]
    successor.close()
    journal.close()


def test_the_memory_of_small_chunks_that_are_dropped_is_given_back() -> None:
    journal, kept = Journal.make(), b"k" * 1000
    journal.begin(Place())
    fed(journal, kept)
    journal.add(Kind.CHUNK, 1, NOW, size=len(kept))
    for _ in range(1000):
        fed(journal, b"x" * 1000)
        journal.dropped(1, 1000, journal.position(1), (1, 1000, 28))
    # Of the file: two pages of marks, and the one or two with bytes that are not given back.
    assert os.fstat(journal.descriptors["journal1"]).st_blocks * 512 <= 16 << 10
    begin = journal.position(1) - 1_001_000
    assert journal.read(1, begin, begin + 1000) == kept
    journal.close()


def test_a_terminal_s_output_is_kept_as_well(tmp_path: Path) -> None:
    shims = Shims(tmp_path / "log", terminal=True)
    shims.say(b"one\n")
    # It dies between the terminal and the memory.
    os.write(shims.container, b"two\n")
    select.select([shims.source], [], [])
    os.splice(shims.source, shims.journal.descriptors[HOPPER_IN], 4096)
    shims.die()
    shims.say(b"three\n")
    assert shims.settled() == "one\ntwo\nthree\n"


def test_a_user_whose_pipes_hold_too_much_has_a_terminal_s_log_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, command: int, size: int) -> None:
        assert (command, size > 0, descriptor >= 0) == (fcntl.F_SETPIPE_SZ, True, True)
        raise PermissionError(errno.EPERM, "")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    shims = Shims(tmp_path / "log", terminal=True)
    shims.say(b"one\n" * 1000)
    shims.die()
    assert shims.settled() == "one\n" * 1000


def test_the_end_of_a_pipe_is_told(shims: Shims) -> None:
    with pytest.raises(BlockingIOError):
        shims.log.take(1, shims.source, terminal=False)
    os.close(shims.container)
    assert shims.log.take(1, shims.source, terminal=False) == b""


def test_a_journal_of_another_version_is_let_go(shims: Shims) -> None:
    kept = {name: os.dup(fd) for name, fd in shims.journal.descriptors.items()}
    os.pwrite(kept["journal1"], b"\xff", 0)
    assert Journal.inherited(kept) is None
    for fd in kept.values():
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
