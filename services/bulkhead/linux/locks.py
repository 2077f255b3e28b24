"""Who holds a flock(2), by the kernel's table (proc_locks(5)): when a lock's owner has left no other trace."""

from __future__ import annotations

from pathlib import Path

_TABLE = Path("/proc/locks")


def flock_owners(path: Path) -> list[int]:
    """The pids that took a lock of the file or directory `path`, which is still held: by them, or by their forks.

    Told apart by inode only, as some file systems have two device numbers: check who it is. Raises OSError.
    """
    inode = str(path.stat().st_ino).encode()
    found = []
    for line in _TABLE.read_bytes().splitlines():
        # 1: FLOCK  ADVISORY  WRITE 4711 fe:00:10862610 0 EOF; one that waits has "->" behind the number.
        fields = line.split()
        if fields[1] == b"FLOCK" and fields[5].rpartition(b":")[2] == inode:
            found.append(int(fields[4]))
    return found
