"""What a disk's refusal is called, and what whoever reads it can do: said alike wherever a file is written."""

from __future__ import annotations

import errno

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
_ADVICE = {
    errno.EIO: "the disk fails, the kernel's log tells more",
    errno.EROFS: "the kernel may have stopped writing to a disk that fails",
}


def reason(error: OSError, *, full: str = "docker system prune frees what is unused") -> str:
    """`No space left on device: docker system prune ...`; the bare words where there is no advice."""
    said = error.strerror or str(error)
    advice = full if error.errno in _FULL else _ADVICE.get(error.errno or 0)
    return f"{said}: {advice}" if advice else said
