"""What the kernel sees an engine do: strace(1) on all its processes, counted between two moments.

    with witness(engine) as seen:
        seen.counts()            # since the last time, once all is quiet
        engine.api("POST", ...)
        counts = seen.counts()

Counts are of the whole engine, its spares too, and of what is forked while it is watched, by the role of the process:
forks of processes, fsyncs (fdatasync too), messages to netlink by family (`inside`: to a container's namespace), nft
transactions, and bytes read, written, and moved by the kernel alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.ctl import remains
from tests.integration.supervisor.spares import spares_of
from tests.support.engine import Engine

_FORKS = ("clone", "clone3", "fork", "vfork")
_SYNCS = ("fsync", "fdatasync", "sync", "syncfs", "msync")
_IN = ("read", "pread64", "readv", "preadv", "recvfrom", "recvmsg")
_OUT = ("write", "pwrite64", "writev", "pwritev", "sendto", "sendmsg")
_WITHIN = ("sendfile", "splice", "tee", "copy_file_range")
TRACED = (*_FORKS, *_SYNCS, *_IN, *_OUT, *_WITHIN)
# Nothing for so long: the operation's last echo has come. What comes later is missed.
QUIET_SECONDS = 0.2
_ATTACHED = re.compile(rb"Process \d+ attached")
_LINE = re.compile(r"(?P<pid>\d+) +(?:<\.\.\. )?(?P<call>\w+)(?P<resumed> resumed>)?(?P<rest>.*)")
_RESULT = re.compile(r"\) += (\d+)[^=]*$")
_NETLINK = re.compile(r"\(\d+<NETLINK:\[(\w+)")
_TITLES = {"api": "api", "manager": "manager", "supervisor": "supervisor", "registry": "registry", "zygote": "zygote"}


class Witness:
    """A strace under way. Use `witness`."""

    def __init__(self, trace: Path, roles: dict[int, str]) -> None:
        self._trace = trace.open()
        self._roles = roles
        self._begun: dict[int, str] = {}
        self._counts: Counter[str] = Counter()

    def counts(self) -> Counter[str]:
        """What was counted since the last time, once nothing more comes."""
        silent = time.monotonic()
        while time.monotonic() - silent < QUIET_SECONDS:
            if self._read():
                silent = time.monotonic()
            time.sleep(0.01)
        counted, self._counts = self._counts, Counter()
        return counted

    def close(self) -> None:
        self._trace.close()

    def _read(self) -> bool:
        """Whether anything that counts has happened."""
        happened = False
        while line := self._trace.readline():
            while not line.endswith("\n"):  # caught while it is written
                line += self._trace.readline()
            happened = self._count(line.rstrip("\n")) or happened
        return happened

    def _count(self, line: str) -> bool:
        found = _LINE.match(line)
        if found is None or found["call"] not in TRACED:
            return False
        pid, call, rest = int(found["pid"]), found["call"], found["rest"]
        if rest.endswith("<unfinished ...>"):
            self._begun[pid] = rest
            return False
        said = self._begun.pop(pid, "") + rest if found["resumed"] else rest
        result = _RESULT.search(said)
        return result is not None and self._note(pid, call, said, int(result[1]))

    def _note(self, pid: int, call: str, said: str, result: int) -> bool:
        role = self._roles.get(pid, "shim")
        if call in _FORKS:
            self._roles[result] = "shim" if role == "zygote" else role
            self._counts[f"forks {role}"] += "CLONE_THREAD" not in said
            return True
        if call in _SYNCS:
            self._counts[f"fsyncs {role}"] += 1
            return True
        if call in _OUT and (family := _NETLINK.match(said)):
            self._note_netlink(family[1].lower(), said)
            return True
        way = "read" if call in _IN else "written" if call in _OUT else "moved"
        self._counts[f"bytes {way} {role}"] += result
        return False

    def _note_netlink(self, family: str, said: str) -> None:
        if family == "netfilter":
            # What is only asked depends on who else has tables on this machine.
            self._counts["nft transactions"] += "BATCH_BEGIN" in said
        else:
            # Of a socket in another network namespace strace knows the number alone.
            self._counts[f"netlink {'inside' if family.isdigit() else family}"] += 1


@contextlib.contextmanager
def witness(engine: Engine) -> Iterator[Witness]:
    """Watch the services that run now, their zygote and spares, and all that they fork."""
    strace = shutil.which("strace")
    if strace is None:
        if "strace" in os.environ.get("BULKHEAD_TEST_REQUIRE", "").split(","):
            pytest.fail("no strace, and this run must not skip it")
        pytest.skip("no strace on this machine")
    roles = _roles(engine)
    trace = engine.base / "trace"
    trace.touch()
    command = [strace, "-f", "-yy", "-s", "1", "-e", "signal=none", "-e", f"trace={','.join(TRACED)}", "-o", str(trace)]
    with subprocess.Popen([*command, *(f"-p{pid}" for pid in roles)], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            _wait_attached(process, len(roles))
            seen = Witness(trace, _with_threads(roles))
            try:
                yield seen
            finally:
                seen.close()
        finally:
            process.terminate()
            process.stderr.read()
            process.wait()
            trace.unlink()


def _wait_attached(process: subprocess.Popen[bytes], count: int) -> None:
    assert process.stderr is not None
    for _ in range(count):
        line = process.stderr.readline()
        while line and not _ATTACHED.search(line):
            line = process.stderr.readline()
        if not line:
            pytest.skip("strace may not attach on this machine")


def _roles(engine: Engine) -> dict[int, str]:
    roles = {pid: _role(title) for pid, title in remains.processes(engine.instance).items()}
    spares = [spare for pid, role in roles.items() if role == "zygote" for spare in spares_of(pid)]
    return roles | dict.fromkeys(spares, "shim")


def _role(title: str) -> str:
    return next((role for name, role in _TITLES.items() if title.startswith(f"bulkhead-{name}")), "shim")


def _with_threads(roles: dict[int, str]) -> dict[int, str]:
    """Roles by thread, as strace numbers them."""
    threads = dict[int, str]()
    for pid, role in roles.items():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            threads |= {int(task.name): role for task in Path(f"/proc/{pid}/task").iterdir()}
    return threads
