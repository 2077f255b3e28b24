"""Log files: how they rotate, are packed, and outlive a death in the midst of it."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from bulkhead.api.adapters.logfiles import FileCursor, open_log
from bulkhead.shim.jsonfile import Encoder
from bulkhead.shim.rotation import RotatingFile
from bulkhead.shim.sinks import LogTarget


def records(*texts: str) -> bytes:
    return b"".join(Encoder("stdout").feed(text.encode() + b"\n", 0) for text in texts)


def logged(path: Path) -> list[str]:
    return [json.loads(line)["log"].rstrip("\n") for line in path.read_bytes().splitlines()]


def test_files_rotate_at_their_size_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    one = len(records("00"))
    file = RotatingFile(LogTarget(path=str(path), max_size=3 * one, max_file=3))
    for number in range(11):
        file.write(records(f"{number:02}"))
    # A file that has reached its size is rotated by the next write.
    assert logged(path) == ["09", "10"]
    assert logged(tmp_path / "log.1") == ["06", "07", "08"]
    assert logged(tmp_path / "log.2") == ["03", "04", "05"]
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2"]  # noqa: PTH208


def test_a_large_chunk_is_spread_over_files_whole_records_each(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatingFile(LogTarget(path=str(path), max_size=1000, max_file=50))
    texts = [f"line {number}" for number in range(100)]
    left = records(*texts)
    while left:
        left = left[file.write(left) :]
    files = sorted(
        tmp_path.iterdir(), key=lambda found: int(found.suffix[1:] or 0) if found.suffix else 0, reverse=True
    )
    assert [text for found in files for text in logged(found)] == texts
    longest = max(len(records(text)) for text in texts)
    assert all(found.stat().st_size < 1000 + longest for found in files)


def test_a_file_that_does_not_close_well_is_not_used_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server may have something to say when a file is closed; its number is another's then for all that."""
    path = tmp_path / "log"
    file = RotatingFile(LogTarget(path=str(path), max_size=10, max_file=2))
    file.write(records("old"))
    before, close = file._fd, os.close

    def close_badly(descriptor: int) -> None:
        close(descriptor)
        if descriptor == before:
            raise OSError(errno.EIO, "it does not close")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close_badly)
        file.write(records("new"))
    assert file._fd != before
    assert (logged(tmp_path / "log.1"), logged(path)) == (["old"], ["new"])
    file.close()


def test_a_single_file_starts_anew_and_its_reader_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatingFile(LogTarget(path=str(path), max_size=10, max_file=1))
    file.write(records("old"))
    with path.open("rb") as reader:
        file.write(records("new"))
        assert json.loads(reader.read())["log"] == "old\n"
    assert logged(path) == ["new"]


def test_an_existing_log_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for text in ("first life", "second life"):
        file = RotatingFile(LogTarget(path=str(path), max_size=10_000, max_file=2))
        file.write(records(text))
        file.close()
    assert logged(path) == ["first life", "second life"]


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        RotatingFile(LogTarget(path=str(tmp_path / "log")))


def test_rotated_files_are_packed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    one = len(records("00"))
    file = RotatingFile(LogTarget(path=str(path), max_size=2 * one, max_file=3, compress=True))
    for number in range(7):
        file.write(records(f"{number:02}"))
    file.close()
    with file._packing:
        assert sorted(os.listdir(tmp_path)) == ["log", "log.1.gz", "log.2.gz"]  # noqa: PTH208
    found = [json.loads(line)["log"] for line in gzip.decompress((tmp_path / "log.1.gz").read_bytes()).splitlines()]
    assert found == ["04\n", "05\n"]
    cursor = open_log(str(path), 4, None)
    assert [json.loads(line)["log"] for line in _everything(cursor)] == ["03\n", "04\n", "05\n", "06\n"]


def _everything(cursor: FileCursor) -> list[bytes]:
    lines: list[bytes] = []
    while block := cursor.read():
        lines += block.splitlines()
    cursor.close()
    return lines


def _killed_at(moment: int, file: RotatingFile, record: bytes) -> bool:
    """Whether a process that was to write `record` was killed instead of its change number `moment` of a name."""
    child = os.fork()
    if not child:
        left = moment

        def dying(change: Callable[..., None]) -> Callable[..., None]:
            def change_or_die(*names: str) -> None:
                nonlocal left
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                change(*names)

            return change_or_die

        os.rename, os.unlink = dying(os.rename), dying(os.unlink)
        file.write(record)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("moment", range(6))
def test_a_death_in_the_midst_of_a_rotation_takes_no_older_file(packed: bool, moment: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    target = LogTarget(path=str(path), max_size=10, max_file=4)
    file = RotatingFile(target)
    for text in ("1", "2", "3"):
        file.write(records(text))
    if packed:
        _pack(tmp_path / "log.1")
        _pack(tmp_path / "log.2")
        # Whoever packed this one was killed before the plain file went.
        (tmp_path / "log.2").write_bytes(records("1"))
    killed = _killed_at(moment, file, records("4"))
    file.close()
    assert _texts(path) == (["1", "2", "3"] if killed else ["1", "2", "3", "4"])
    file = RotatingFile(target)
    if killed:
        file.write(records("4"))
    assert _texts(path) == ["1", "2", "3", "4"]
    for text in ("5", "6"):
        file.write(records(text))
    assert _texts(path) == ["3", "4", "5", "6"]
    file.close()


def _pack(path: Path) -> None:
    Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def _texts(path: Path) -> list[str]:
    return [json.loads(line)["log"].rstrip("\n") for line in _everything(open_log(str(path), None, None))]
