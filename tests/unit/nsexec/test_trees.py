"""Small trees are deleted within bounds and through no link, and a bundle's files are written where they are."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.nsexec import empty_directory, is_new_directory, write_files

# As many entries and levels as no tree here comes near to.
MANY, DEEP = 64, 4


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture
def directory(place: Path) -> Iterator[int]:
    """`place`, open."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def test_all_is_deleted(place: Path, directory: int) -> None:
    (place / "a" / "b" / "c").mkdir(parents=True)
    (place / "a" / "b" / "file").write_text("x")
    (place / "empty").mkdir()
    os.mkfifo(place / "fifo")
    (place / ("n" * 255)).write_text("x")
    assert empty_directory(directory, MANY, DEEP) == MANY - 7
    assert list(place.iterdir()) == []


def test_an_empty_one_stays_empty(place: Path, directory: int) -> None:
    assert empty_directory(directory, 0, 1) == 0
    assert place.is_dir()


def test_it_is_read_from_its_beginning_each_time(place: Path, directory: int) -> None:
    for _ in range(2):
        (place / "file").write_text("x")
        empty_directory(directory, MANY, DEEP)
        assert list(place.iterdir()) == []


def test_who_reads_it_next_reads_all(place: Path, directory: int) -> None:
    (place / "file").write_text("x")
    empty_directory(directory, MANY, DEEP)
    (place / "late").touch()
    assert os.listdir(directory) == ["late"]


def test_a_link_is_deleted_and_not_followed(place: Path, directory: int, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (place / "link").symlink_to(tmp_path / "kept")
    empty_directory(directory, MANY, DEEP)
    assert list(place.iterdir()) == []
    assert (tmp_path / "kept" / "file").read_text() == "x"


# The second has names that no listing of so few would have room for.
@pytest.mark.parametrize(("count", "length"), [(MANY + 1, 3), (200, 255)])
def test_what_has_more_than_was_allowed_is_left_whole(place: Path, directory: int, count: int, length: int) -> None:
    for number in range(count):
        (place / f"{number:0{length}}").touch()
    with pytest.raises(OSError, match="too large") as refused:
        empty_directory(directory, MANY, DEEP)
    assert refused.value.errno == errno.EFBIG
    assert len(list(place.iterdir())) == count


def test_as_many_as_were_allowed_are_deleted_whatever_their_names(place: Path, directory: int) -> None:
    for number in range(MANY):
        (place / f"{number:0255}").touch()
    assert empty_directory(directory, MANY, DEEP) == 0
    assert list(place.iterdir()) == []


def test_entries_are_counted_through_all_levels(place: Path, directory: int) -> None:
    (place / "a").mkdir()
    for number in range(3):
        (place / "a" / str(number)).touch()
    with pytest.raises(OSError, match="too large"):
        empty_directory(directory, 3, DEEP)
    assert len(list((place / "a").iterdir())) == 3
    assert empty_directory(directory, 4, DEEP) == 0


def test_what_is_deeper_than_was_allowed_is_left(place: Path, directory: int) -> None:
    (place / "1" / "2" / "3").mkdir(parents=True)
    (place / "1" / "2" / "3" / "file").touch()
    with pytest.raises(OSError, match="too large"):
        empty_directory(directory, MANY, 3)
    assert (place / "1" / "2" / "3" / "file").exists()
    empty_directory(directory, MANY, 4)
    assert list(place.iterdir()) == []


def test_what_is_no_directory_is_refused(place: Path) -> None:
    (place / "file").touch()
    with (place / "file").open() as file, pytest.raises(NotADirectoryError):
        empty_directory(file.fileno(), MANY, DEEP)


def test_files_are_readable_for_all_whatever_the_umask(place: Path) -> None:
    before = os.umask(0o077)
    try:
        write_files(str(place), (("a", b"1"), ("b", b"")))
    finally:
        os.umask(before)
    assert [(place / name).read_bytes() for name in "ab"] == [b"1", b""]
    assert {(place / name).stat().st_mode & 0o7777 for name in "ab"} == {0o644}


def test_a_file_that_is_there_is_written_in_place(place: Path) -> None:
    """It may be bound into a container."""
    (place / "hosts").write_text("longer than what comes")
    inode = (place / "hosts").stat().st_ino
    write_files(str(place), (("hosts", b"short"),))
    assert (place / "hosts").read_bytes() == b"short"
    assert (place / "hosts").stat().st_ino == inode


def test_the_first_that_cannot_be_written_is_told(place: Path) -> None:
    (place / "b").mkdir()
    with pytest.raises(IsADirectoryError):
        write_files(str(place), (("a", b"1"), ("b", b"2"), ("c", b"3")))
    assert sorted(each.name for each in place.iterdir()) == ["a", "b"]
    with pytest.raises(FileNotFoundError):
        write_files(str(place / "missing"), (("a", b"1"),))


@pytest.mark.parametrize("files", [(("a",),), (("a", "text"),), tuple((str(n), b"") for n in range(17))])
def test_what_are_no_files_are_refused(place: Path, files: tuple[tuple[str, bytes], ...]) -> None:
    with pytest.raises((TypeError, ValueError)):
        write_files(str(place), files)
    assert list(place.iterdir()) == []


def opened_beside(place: Path, name: str, mode: int = 0o700) -> int:
    (place / name).mkdir()
    (place / name).chmod(mode)
    return os.open(place / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def test_a_directory_made_just_now_is_new_and_held_then(place: Path, directory: int) -> None:
    made, again = opened_beside(place, "made"), os.open(place / "made", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert is_new_directory(made, directory)
        assert not is_new_directory(again, directory)
    finally:
        os.close(made)
        os.close(again)


@pytest.mark.parametrize("about", ["mode", "file", "many files", "attribute"])
def test_what_tells_a_directory_from_a_new_one(place: Path, directory: int, about: str) -> None:
    made = opened_beside(place, "made", 0o701 if about == "mode" else 0o700)
    try:
        for number in range({"file": 1, "many files": 100}.get(about, 0)):
            (place / "made" / f"{number:0255}").touch()
        if about == "attribute":
            try:
                os.setxattr(made, "user.mark", b"1")
            except OSError:
                pytest.skip("this file system has no such attributes")
        assert not is_new_directory(made, directory)
    finally:
        os.close(made)
