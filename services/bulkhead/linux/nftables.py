"""nftables through libnftables' stable C interface (libnftables(3)): command text in, JSON out.

The text of one call is one atomic transaction. Raises OSError; `LibraryMissing` names what to install.
"""

from __future__ import annotations

import ctypes
import errno
import json
from typing import Any

from bulkhead.linux.netlink import Deletions, attributes

_LIBRARY = "libnftables.so.1"
_JSON, _NUMERIC_PROTOCOL = 1 << 4, 1 << 7
# The library tells its reason in words only; these are the kernel's, as strerror(3) spells them.
_REASONS = {
    "No such file or directory": errno.ENOENT,
    "File exists": errno.EEXIST,
    "Operation not permitted": errno.EPERM,
    "Operation not supported": errno.EOPNOTSUPP,
    "Device or resource busy": errno.EBUSY,
}
# linux/netfilter/nfnetlink.h, nf_tables.h: the subsystem in the upper byte, DELTABLE, DELCHAIN, DELRULE in the lower.
_NETLINK_NETFILTER, _GROUP_NFTABLES = 12, 7
_DELETED = (0x0A02, 0x0A05, 0x0A08)
_NFGENMSG_SIZE, _TABLE_NAME = 4, 1


class LibraryMissing(OSError):
    """libnftables is not installed."""

    def __init__(self) -> None:
        super().__init__(
            errno.ENOSYS,
            f"{_LIBRARY} is not installed (Debian, Ubuntu: apt install libnftables1; Fedora: dnf install "
            "nftables-libs; Alpine: apk add nftables)",
        )


class Nftables:
    """A handle on the rules of the network namespace in which the calling thread stood when it was made.

    Not thread-safe: one call at a time, from any thread.
    """

    def __init__(self) -> None:
        self._library = _load()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise OSError(errno.ENOMEM, "nft_ctx_new failed")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._library.nft_ctx_output_set_flags(self._context, _JSON | _NUMERIC_PROTOCOL)

    def close(self) -> None:
        """Free the handle; a second call does nothing."""
        context, self._context = self._context, None
        if context:
            self._library.nft_ctx_free(context)

    def run(self, commands: str) -> str:
        """Carry out `commands` (nft(8) syntax) as one transaction; what they print.

        Raises OSError with the kernel's errno where the library's words tell it, else EINVAL.
        """
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context)
        complaint: bytes = self._library.nft_ctx_get_error_buffer(self._context)
        if failed:
            raise _failure(complaint.decode(errors="replace"))
        return output.decode()

    def table(self, name: str) -> list[dict[str, Any]] | None:
        """The objects of the table `inet <name>` (libnftables-json(5)), or None if there is none."""
        try:
            answer = json.loads(self.run(f"list table inet {name}"))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        objects: list[dict[str, Any]] = answer["nftables"]
        return objects


def deletions() -> Deletions:
    """News of deleted tables, chains and rules; see `deleted_from`. Elements come and go unheard."""
    return Deletions(_NETLINK_NETFILTER, _GROUP_NFTABLES, _DELETED)


def deleted_from(body: bytes) -> str:
    """The table that a message of `deletions` is about (or the one it deletes)."""
    return attributes(body[_NFGENMSG_SIZE:]).get(_TABLE_NAME, b"").rstrip(b"\0").decode(errors="replace")


def _failure(complaint: str) -> OSError:
    first = complaint.strip().partition("\n")[0]
    reason = next((number for words, number in _REASONS.items() if first.endswith(words)), errno.EINVAL)
    return OSError(reason, f"nftables: {first.removeprefix('Error: ')}")


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise LibraryMissing from None
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    library.nft_ctx_new.restype = pointer
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_output_set_flags.argtypes = [pointer, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [pointer, text]
    for call in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, call).argtypes = [pointer]
    for call in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, call).argtypes = [pointer]
        getattr(library, call).restype = text
    return library
