"""Our errors as the Engine API's: the status of each class, and the JSON body clients show verbatim."""

from __future__ import annotations

import msgspec

from bulkhead import errors

_STATUS: dict[type[BaseException], int] = {
    errors.InvalidArgument: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.NotModified: 304,
    errors.NotImplementedYet: 501,
    errors.Unavailable: 503,
    errors.BulkheadError: 500,
}


def status_of(error: BaseException) -> int:
    """The HTTP status that tells `error` to a client."""
    if isinstance(error, errors.LaunchFailed):
        # The command was wrong, not the engine; the CLI makes its exit code 126 or 127 of the text.
        return 400 if error.exit_code in (126, 127) else 500
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return 500


def body_of(message: str) -> bytes:
    """Docker's error body, newline included; what is not Unicode in the message becomes "?"."""
    message = message.encode(errors="replace").decode()
    return msgspec.json.encode({"message": message}) + b"\n"
