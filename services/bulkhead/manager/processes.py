"""`docker top`: the processes of a container as ps(1) would list them, read from /proc without running ps.

Understood are the default `-ef`, `aux`, and `-o`/`o` with a list of columns; for anything else see `host_ps`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bulkhead.errors import InvalidArgument

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_FULL = ("uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd")
_AUX = ("user", "pid", "pcpu", "pmem", "vsz", "rss", "tty", "stat", "start", "time", "command")
_SWITCHES = {
    "": _FULL,
    "ef": _FULL,
    "fe": _FULL,
    "f": _FULL,
    "e": _FULL,
    "a": _FULL,
    "aux": _AUX,
    "ax": _AUX,
    "faux": _AUX,
}
_ALIASES = {
    "args": "command",
    "%cpu": "pcpu",
    "%mem": "pmem",
    "tt": "tty",
    "tname": "tty",
    "state": "s",
    "ucomm": "comm",
    "euser": "user",
    "uname": "user",
    "rssize": "rss",
    "vsize": "vsz",
    "nice": "ni",
    "cputime": "time",
    "tgid": "pid",
    "group": "gid",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """What /proc/<pid> says (proc_pid_stat(5)); times in clock ticks, `started` since boot."""

    pid: int
    ppid: int
    pgid: int
    session: int
    uid: int
    gid: int
    state: str
    tty: int
    ticks: int
    started: int
    nice: int
    threads: int
    virtual: int
    resident: int
    name: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Now:
    """The moment of a listing."""

    boot: float
    memory: int
    uptime: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A table as ps prints it."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def columns(ps_args: str) -> tuple[tuple[str, str], ...]:
    """The columns (name, title) that `ps_args` asks for. Raises InvalidArgument with Docker's texts."""
    try:
        words = shlex.split(ps_args or "-ef")
    except ValueError as error:
        raise InvalidArgument(f"cannot list processes: {error}: {ps_args!r}") from error
    chosen: list[tuple[str, str]] = []
    switches = ""
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        flags = word.removeprefix("-").removeprefix("-")
        if flags in ("o", "eo", "axo", "O", "format"):
            chosen += _parse_columns("".join(words[position : position + 1]))
            position += 1
        elif word.startswith(("-o", "o")):
            chosen += _parse_columns(word.lstrip("-")[1:])
        elif "format=" in flags:
            chosen += _parse_columns(flags.partition("=")[2])
        else:
            switches += flags
    if chosen:
        if "pid" not in (name for name, _ in chosen):
            raise InvalidArgument("Couldn't find PID field in ps output")
        return tuple(chosen)
    names = _SWITCHES.get(switches)
    if names is None:
        raise InvalidArgument(
            f"cannot list processes: ps options {ps_args!r} are not supported (-ef, aux, -o LIST are)"
        )
    return tuple((name, _COLUMNS[name][0]) for name in names)


def listing(pids: Iterable[int], ps_args: str) -> Listing:
    """The processes that still exist, in the order of their pids."""
    chosen = columns(ps_args)
    now = _Now(boot=_boot_time(), memory=_memory(), uptime=_uptime())
    found = [info for pid in sorted(pids) if (info := read_process(pid)) is not None]
    rows = tuple(tuple(_COLUMNS[name][1](info, now) for name, _ in chosen) for info in found)
    return Listing(titles=tuple(title for _, title in chosen), rows=rows)


def read_process(pid: int) -> ProcessInfo | None:
    """One process, None when it is gone."""
    place = Path(f"/proc/{pid}")
    try:
        owner = place.stat()
        text = (place / "stat").read_text(errors="replace")
        arguments = (place / "cmdline").read_bytes()
    except OSError:
        return None
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    shown = arguments.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return ProcessInfo(
        pid=pid,
        state=fields[0],
        ppid=int(fields[1]),
        pgid=int(fields[2]),
        session=int(fields[3]),
        tty=int(fields[4]),
        ticks=int(fields[11]) + int(fields[12]),
        nice=int(fields[16]),
        threads=int(fields[17]),
        started=int(fields[19]),
        virtual=int(fields[20]),
        resident=int(fields[21]) * _PAGE,
        uid=owner.st_uid,
        gid=owner.st_gid,
        name=name,
        command=shown or f"[{name}]",
    )


def _parse_columns(text: str) -> list[tuple[str, str]]:
    """`pid,comm=NAME`: a title may be given after the last column of a list."""
    found: list[tuple[str, str]] = []
    for part in text.replace(",", " ").split():
        name, separator, title = part.partition("=")
        known = _ALIASES.get(name.lower(), name.lower())
        if known not in _COLUMNS:
            raise InvalidArgument(f'cannot list processes: error: unknown user-defined format specifier "{name}"')
        usual = "COMMAND" if name.lower() in ("args", "comm") else _COLUMNS[known][0]
        found.append((known, title if separator else usual))
    if not found:
        raise InvalidArgument("ps: error: format specification must follow -o")
    return found


def _started(info: ProcessInfo, now: _Now) -> str:
    at = now.boot + info.started / _TICKS
    same_day = time.localtime(at)[:3] == time.localtime()[:3]
    return time.strftime("%H:%M" if same_day else "%b%d", time.localtime(at))


def _cpu_percent(info: ProcessInfo, now: _Now) -> float:
    lived = now.uptime - info.started / _TICKS
    return 100 * info.ticks / _TICKS / lived if lived > 0 else 0.0


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _elapsed(info: ProcessInfo, now: _Now) -> str:
    seconds = max(0, int(now.uptime - info.started / _TICKS))
    days, rest = divmod(seconds, 86400)
    if days:
        return f"{days}-{_clock(rest)}"
    return _clock(rest) if rest >= 3600 else f"{rest // 60:02d}:{rest % 60:02d}"


def _terminal(number: int) -> str:
    if number == 0:
        return "?"
    major, minor = os.major(number), os.minor(number)
    if 136 <= major <= 143:
        return f"pts/{(major - 136) * 256 + minor}"
    return f"tty{minor}" if major == 4 else "?"


@lru_cache(maxsize=256)
def _user(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


_Column = tuple[str, Callable[[ProcessInfo, _Now], str]]
_COLUMNS: dict[str, _Column] = {
    "uid": ("UID", lambda info, _: _user(info.uid)),
    "user": ("USER", lambda info, _: _user(info.uid)),
    "gid": ("GID", lambda info, _: str(info.gid)),
    "pid": ("PID", lambda info, _: str(info.pid)),
    "ppid": ("PPID", lambda info, _: str(info.ppid)),
    "pgid": ("PGID", lambda info, _: str(info.pgid)),
    "sid": ("SID", lambda info, _: str(info.session)),
    "c": ("C", lambda info, now: str(min(99, int(_cpu_percent(info, now))))),
    "pcpu": ("%CPU", lambda info, now: f"{_cpu_percent(info, now):.1f}"),
    "pmem": ("%MEM", lambda info, now: f"{100 * info.resident / now.memory:.1f}"),
    "vsz": ("VSZ", lambda info, _: str(info.virtual // 1024)),
    "rss": ("RSS", lambda info, _: str(info.resident // 1024)),
    "tty": ("TTY", lambda info, _: _terminal(info.tty)),
    "stat": ("STAT", lambda info, _: info.state + ("s" if info.session == info.pid else "")),
    "s": ("S", lambda info, _: info.state),
    "stime": ("STIME", _started),
    "start": ("START", _started),
    "time": ("TIME", lambda info, _: _clock(info.ticks // _TICKS)),
    "etime": ("ELAPSED", _elapsed),
    "etimes": ("ELAPSED", lambda info, now: str(max(0, int(now.uptime - info.started / _TICKS)))),
    "ni": ("NI", lambda info, _: str(info.nice)),
    "nlwp": ("NLWP", lambda info, _: str(info.threads)),
    "cmd": ("CMD", lambda info, _: info.command),
    "command": ("COMMAND", lambda info, _: info.command),
    "comm": ("COMMAND", lambda info, _: info.name),
}


def _boot_time() -> float:
    return time.time() - _uptime()


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * _PAGE
