"""Control files of cgroups: read whole, written by one write(2). Everything raises OSError that names the file."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator

_PART = 64 << 10
REMOVE_ATTEMPTS = 10  # from 1 ms, doubling: about a second for the kernel to let go of dead processes


def read(directory: str, file: str) -> str:
    """Plain system calls: a file object makes five more of them, and a dozen files are read for each container."""
    path = f"{directory}/{file}"
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    parts = []
    try:
        while part := os.read(fd, _PART):
            parts.append(part)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)
    return b"".join(parts).decode()


def write(directory: str, file: str, *values: str) -> None:
    """One write(2) each: control files take a whole command at once. Nothing at all would not be a write: a newline
    is."""
    path = f"{directory}/{file}"
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for value in values:
            os.write(fd, value.encode() or b"\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def try_write(directory: str, file: str, value: str) -> bool:
    try:
        write(directory, file, value)
    except OSError:
        return False
    return True


def exists(directory: str, file: str) -> bool:
    return os.access(f"{directory}/{file}", os.F_OK)


def read_table(directory: str | None, file: str) -> dict[str, int]:
    """Lines of "key number"; empty when the file is not there."""
    pairs = (line.split() for line in _lines(directory, file))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def read_rows(directory: str | None, file: str) -> list[list[str]]:
    """The words of each line; empty when the file is not there."""
    return [words for line in _lines(directory, file) if (words := line.split())]


def read_number(directory: str | None, file: str) -> int | None:
    """None when there is no such file or no limit ("max")."""
    text = "".join(_lines(directory, file)).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _lines(directory: str | None, file: str) -> list[str]:
    if directory is None:
        return []
    try:
        return read(directory, file).splitlines()
    except OSError:
        return []


# ---- directories ----


def make_directory(directory: str) -> bool:
    """With its parents; whether it existed. Plain os calls: there are ten of these before every container."""
    try:
        os.mkdir(directory)  # noqa: PTH102
    except FileExistsError:
        return True
    except FileNotFoundError:
        make_directory(directory.rpartition("/")[0])
        return make_directory(directory)
    return False


def walk(directory: str) -> Iterator[str]:
    """The directory and all below it, parents first; what vanishes meanwhile is skipped."""
    pending = [directory]
    while pending:
        place = pending.pop()
        try:
            with os.scandir(place) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            continue
        yield place
        pending.extend(below)


def members(directory: str) -> set[int]:
    """Processes of the group and of all below it; of a threaded group, its threads."""
    found = set[int]()
    for place in walk(directory):
        for file in ("cgroup.procs", "cgroup.threads"):
            try:
                found.update(map(int, read(place, file).split()))
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP:  # a threaded group lists no processes
                    continue
            break
    return found


def remove_tree(directory: str) -> None:
    """Remove a group and what is below it; retried while the kernel still sees a dying process."""
    try:
        os.rmdir(directory)  # noqa: PTH106
    except FileNotFoundError:
        return
    except OSError:  # something is below, or still dying
        for place in reversed(list(walk(directory))):
            _remove_one(place)


def _remove_one(directory: str) -> None:
    delay = 0.001
    for attempt in range(REMOVE_ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):
            try:
                os.rmdir(directory)  # noqa: PTH106
            except OSError as error:
                if error.errno != errno.EBUSY or attempt == REMOVE_ATTEMPTS - 1:
                    raise
                time.sleep(delay)
                delay *= 2
                continue
        return
