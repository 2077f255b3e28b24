"""The process that reads a container's tree: what it holds as a tar, or what has changed in it.

Its stdin says, as JSON: the parent's pid, what is wanted (`tree`, `layer` or `changes`), the upper directory, the
lower ones (topmost first), the paths the engine made. stdout is the tar, or records `<A|C|D><path>\\0`. The last
line of stderr is `r`, or `e <class of errors.py> <message as hex digits>`.

    tree      everything that the container sees, merged
    layer     what it changed, as a layer of an image: deletions are `.wh.` members
    changes   the same as `docker diff` tells it
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
from typing import Any, NoReturn

from bulkhead import errors
from bulkhead.content import confine
from bulkhead.content.treetar import Output, TreeTar
from bulkhead.content.treewalk import walk
from bulkhead.content.upper import Upper
from bulkhead.linux.detached import view

_OPEN_FILES = 4096
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


def main() -> NoReturn:
    """Do as told, say how it went, exit without running anything else."""
    try:
        _run(json.loads(sys.stdin.buffer.read()))
    except BrokenPipeError:
        pass  # nobody reads any more
    except BaseException as error:
        kind, message = _told(error)
        _say(f"e {kind} {message.encode('utf-8', 'replace').hex()}")
    else:
        _say("r")
    os._exit(0)


def _run(wanted: dict[str, Any]) -> None:
    confine.die_with_parent(wanted["parent"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_OPEN_FILES, most), most))
    upper, lower = wanted["upper"], wanted["lower"]
    if wanted["want"] == "tree":
        TreeTar().write(walk(view([upper, *lower])))
        return
    difference = Upper(view([upper]), view(lower), [path.encode() for path in wanted["made"]])
    if wanted["want"] == "layer":
        TreeTar(whiteouts=True).write(difference.entries())
        return
    out = Output()
    for change in difference.changes():
        out.write(change.kind.value.encode() + change.path + b"\0")
    out.flush()


def _told(error: BaseException) -> tuple[str, str]:
    """(class, message) for the parent."""
    if isinstance(error, errors.BulkheadError):
        return type(error).__name__, str(error)
    if isinstance(error, OSError):
        kind = "ResourceExhausted" if error.errno in _FULL else "Internal"
        return kind, f"cannot read tree: {(error.strerror or str(error)).lower()}"
    return "Internal", f"cannot read tree: {type(error).__name__}: {error}"


def _say(line: str) -> None:
    os.write(2, line.encode() + b"\n")


if __name__ == "__main__":
    main()
