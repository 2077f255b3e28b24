"""What chattr(1) and project quotas say of an inode: FS_IOC_FSGETXATTR of <linux/fs.h>."""

from __future__ import annotations

import fcntl
import struct

_FS_IOC_FSGETXATTR = 0x801C581F
# struct fsxattr: fsx_xflags, fsx_extsize, fsx_nextents, fsx_projid, fsx_cowextsize, padding
_LAYOUT = struct.Struct("=5I8x")
# Says only that there are extended attributes.
_HAS_ATTRIBUTES = 0x80000000


def attributes(fd: int) -> tuple[int, int]:
    """An inode's flags and project. Raises OSError, also where the file system has no such thing."""
    flags, _, _, project, _ = _LAYOUT.unpack(fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_LAYOUT.size)))
    return flags & ~_HAS_ATTRIBUTES, project
