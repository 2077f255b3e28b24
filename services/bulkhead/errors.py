"""The whole error vocabulary: one class per thing a caller can do about it.

Messages read "cannot <verb> <object>: <reason>", unless Docker has a known text, then that text.
Adapters translate foreign exceptions into these where they call; each edge maps these to its own
protocol once (HTTP status, gRPC status, ttrpc status). Data travels on attributes, text in `str`.
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

# What the machine may have again, or do again, a moment later.
_LACKS = frozenset((errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO))


class BulkheadError(Exception):
    """Base of every error the engine raises on purpose."""

    def told_as(self, text: str) -> Self:
        """The same in other words, with all that it carries."""
        # A runtime command that lives for milliseconds has no use for it, and loads this module.
        import copy

        told = copy.copy(self)
        told.args = (text,)
        return told


class InvalidArgument(BulkheadError):
    """The request can never succeed as written (HTTP 400)."""


class NotFound(BulkheadError):
    """The named object does not exist (HTTP 404)."""


class Conflict(BulkheadError):
    """The object's present state or name forbids it (HTTP 409)."""


class NotModified(BulkheadError):
    """The object already is as asked (HTTP 304)."""


class Unauthorized(BulkheadError):
    """Credentials are missing or wrong (HTTP 401)."""


class Forbidden(BulkheadError):
    """The caller may never do this (HTTP 403)."""


class Unavailable(BulkheadError):
    """A part of the engine, or a registry, is away for now: try again (HTTP 503)."""


class DeadlineExceeded(BulkheadError):
    """The operation took longer than it may; its outcome must be looked up (HTTP 500)."""


class NotImplementedYet(BulkheadError):
    """Docker has it, Bulkhead does not, or not yet (HTTP 501)."""


class ResourceExhausted(BulkheadError):
    """Disk, memory, addresses or processes ran out; nothing was kept (HTTP 500)."""


class DataLoss(BulkheadError):
    """Bytes are not what their digest or record says (HTTP 500)."""


class Internal(BulkheadError):
    """The engine or the kernel failed in a way the caller cannot mend (HTTP 500)."""


class LaunchFailed(BulkheadError):
    """A process could not be brought to exec in its container.

    `step` names the stage that failed (nsexec's step table), `errno` is the kernel's reason,
    `exit_code` what Docker reports for it: 126 cannot be run, 127 not found, 128 anything else.
    HTTP 400 for 126 and 127, else 500.
    """

    def __init__(self, message: str, *, step: str = "", errno: int = 0, exit_code: int = 128) -> None:
        super().__init__(message)
        self.step = step
        self.errno = errno
        self.exit_code = exit_code

    @property
    def exec_exit_code(self) -> int:
        """The same for an exec: Docker tells only what was not found from what could not be run."""
        return self.exit_code if self.exit_code == 127 else 126


def may_pass(error: BulkheadError) -> bool:
    """Whether the same may succeed later though nobody changes what was asked: a part is away, the machine lacks
    something, a process was killed on its way."""
    if isinstance(error, LaunchFailed):
        # A hook's refusal has the same number as a stage's death.
        return error.errno in _LACKS or (error.errno == errno.ECANCELED and error.step != "hook")
    return isinstance(error, (Unavailable, ResourceExhausted, DeadlineExceeded, Internal))
