"""Namespace kinds, and namespaces named by a path (namespaces(7), ioctl_ns(2))."""

from __future__ import annotations

import fcntl
import os

NEWTIME = 0x00000080
NEWNS = 0x00020000
NEWCGROUP = 0x02000000
NEWUTS = 0x04000000
NEWIPC = 0x08000000
NEWUSER = 0x10000000
NEWPID = 0x20000000
NEWNET = 0x40000000

# OCI's name of each kind and its CLONE_NEW* flag.
FLAGS = {
    "mount": NEWNS,
    "pid": NEWPID,
    "network": NEWNET,
    "ipc": NEWIPC,
    "uts": NEWUTS,
    "cgroup": NEWCGROUP,
    "user": NEWUSER,
    "time": NEWTIME,
}

_NS_GET_NSTYPE = 0xB703


def open_namespace(path: str, flag: int) -> int:
    """Descriptor of the namespace at `path`; OSError EINVAL when it is of another kind, or none."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if fcntl.ioctl(fd, _NS_GET_NSTYPE) != flag:
            raise OSError(22, "namespace of another kind", path)
    except OSError as error:
        os.close(fd)
        if error.errno == 25:  # ENOTTY: a file, but no namespace
            raise OSError(22, "not a namespace", path) from None
        raise
    return fd
