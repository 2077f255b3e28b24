"""Our errors as the status codes of gRPC and ttrpc, both ways: one table for every edge between processes.

Codes are those of google.rpc.Code. `LaunchFailed` carries data, so it travels as a field of the response.
"""

from __future__ import annotations

from bulkhead import errors

_CODES: dict[type[errors.BulkheadError], int] = {
    errors.InvalidArgument: 3,
    errors.DeadlineExceeded: 4,
    errors.NotFound: 5,
    errors.Conflict: 6,
    errors.Forbidden: 7,
    errors.ResourceExhausted: 8,
    errors.NotModified: 9,
    errors.NotImplementedYet: 12,
    errors.Internal: 13,
    errors.Unavailable: 14,
    errors.DataLoss: 15,
    errors.Unauthorized: 16,
}
_ERRORS = {code: kind for kind, code in _CODES.items()}


def code_of(error: BaseException) -> int:
    """The status code that tells `error` to another process; 13 (internal) for what has no row."""
    for kind in type(error).__mro__:
        if kind in _CODES:
            return _CODES[kind]
    return 13


def error_of(code: int, message: str) -> errors.BulkheadError:
    """The error another process meant; Internal for codes we never send."""
    return _ERRORS.get(code, errors.Internal)(message)


def error_named(kind: str, message: str) -> errors.BulkheadError:
    """The error whose class is called `kind`; Internal when there is no such class."""
    for known in _CODES:
        if known.__name__ == kind:
            return known(message)
    return errors.Internal(message)
