"""`docker top` with options that only ps(1) itself knows: the host's ps, as Docker runs it, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Collection

from bulkhead.errors import Internal, InvalidArgument, Unavailable
from bulkhead.manager.processes import Listing

_SECONDS = 10.0
# Another column under the title by which processes are told apart.
_FORGED = re.compile(r"\s+(\S*)=\s*(PID\S*)")


def available() -> bool:
    return shutil.which("ps") is not None


def listing(pids: Collection[int], ps_args: str) -> Listing:
    """Those of `pids` that ps shows, threads below their processes. Raises InvalidArgument with ps's own words."""
    for name, title in _FORGED.findall(ps_args):
        if name != "pid":
            raise InvalidArgument(f'specifying "{name}={title}" is not allowed')
    words = [word for word in ps_args.split(" ") if word]
    done = _run([*words, f"-q{','.join(map(str, pids))}"])
    if done.returncode:
        # Some options cannot be had for chosen processes only.
        done = _run(words)
    if done.returncode:
        reason = next(iter(done.stderr.splitlines()), f"exit status {done.returncode}")
        raise InvalidArgument(f"ps: {reason}")
    return _parsed(done.stdout, frozenset(map(str, pids)))


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["ps", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unavailable(f"cannot list processes: ps did not end within {_SECONDS:g} s") from None
    except OSError as error:
        raise Internal(f"cannot run ps: {error.strerror}") from error
    except ValueError as error:  # a NUL, or what no program can be told
        raise InvalidArgument(f"ps: {error}") from error


def _parsed(output: str, pids: frozenset[str]) -> Listing:
    head, *lines = output.splitlines() or [""]
    titles = head.split()
    if "PID" not in titles:
        raise InvalidArgument("Couldn't find PID field in ps output")
    place, rows, ours = titles.index("PID"), [], False
    for line in lines:
        fields = line.split(maxsplit=len(titles) - 1)
        if len(fields) < len(titles):
            continue
        # A thread has a dash there: it belongs to the process above it.
        ours = ours if fields[place] == "-" else fields[place] in pids
        if ours:
            rows.append(tuple(field.rstrip() for field in fields))
    return Listing(titles=tuple(titles), rows=tuple(rows))
