"""Project quotas: the most bytes that the files below one directory may take.

ioctl_fssetxattr(2) gives a directory a project id that everything made below inherits; quotactl(2) with PRJQUOTA
limits the project. ext4 and xfs can, when mounted with `prjquota`.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import struct
from pathlib import Path

from bulkhead.linux import syscall

_FS_IOC_FSGETXATTR = 0x801C581F
_FS_IOC_FSSETXATTR = 0x401C5820
_FS_XFLAG_PROJINHERIT = 0x00000200
_FSXATTR = struct.Struct("=IIIII8x")  # xflags, extsize, nextents, projid, cowextsize
_Q_SETQUOTA = 0x800008
_PRJQUOTA = 2
_QIF_BLIMITS = 1
_DQBLK = struct.Struct("=QQQQQQQQII")  # hard, soft, current space, inode limits and times, valid
_BLOCK = 1024  # limits are in units of QIF_DQBLKSIZE
_MISSING = frozenset((errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.ESRCH, errno.EINVAL))


class QuotaUnsupported(OSError):
    """The file system has no project quotas, or was not mounted with them."""


def limit(directory: Path, project: int, size: int) -> None:
    """Let what is below the empty `directory` take at most `size` bytes, as project `project` (1 .. 2**32 - 1).

    Raises QuotaUnsupported, OSError.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _set_project(fd, project)
        _set_limit(fd, project, size)
    except OSError as error:
        if error.errno in _MISSING:
            raise QuotaUnsupported(error.errno, os.strerror(error.errno or 0), str(directory)) from error
        raise
    finally:
        os.close(fd)


def _set_project(fd: int, project: int) -> None:
    attributes = array.array("B", bytes(_FSXATTR.size))
    fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, attributes)
    flags, extent, extents, _, cow = _FSXATTR.unpack(attributes)
    fcntl.ioctl(fd, _FS_IOC_FSSETXATTR, _FSXATTR.pack(flags | _FS_XFLAG_PROJINHERIT, extent, extents, project, cow))


def _set_limit(fd: int, project: int, size: int) -> None:
    blocks = -(-size // _BLOCK)
    wanted = _DQBLK.pack(blocks, blocks, 0, 0, 0, 0, 0, 0, _QIF_BLIMITS, 0)
    syscall.call("quotactl_fd", fd, (_Q_SETQUOTA << 8) | _PRJQUOTA, project, wanted)
