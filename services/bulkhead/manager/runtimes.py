"""Which OCI runtime launches a container: the engine's own core, or a program of others by name.

    [manager]
    default_runtime = "bulkhead"
    [manager.runtimes.kata]
    path = "/usr/bin/kata-runtime"
    args = ["--debug"]

`bulkhead` is the engine's own. `runc` and `crun` are known without configuration where they are installed. Where runc
is not, its names mean the engine's own core, since clients that were written for Docker name it without a thought.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from bulkhead.errors import InvalidArgument
from bulkhead.manager.config import ManagerConfig, RuntimeConfig

OWN = "bulkhead"
_RUNC = "runc"
_FOUND = (_RUNC, "crun")
# containerd's name for "runc, by the shim of today": what `docker info` of a Docker lists beside it.
_RUNC_SHIM = "io.containerd.runc.v2"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Command = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtimes:
    """Commands by name; the empty one is the engine's own core."""

    commands: Mapping[str, Command] = field(default_factory=lambda: {OWN: ()})
    default: str = OWN

    def chosen(self, name: str) -> str:
        """`name`, or the default for none. Raises InvalidArgument with Docker's text for one that is unknown."""
        self.command(name)
        return name or self.default

    def command(self, name: str) -> Command:
        """The program and its first arguments. Raises InvalidArgument with Docker's text."""
        found = self.commands.get(name or self.default)
        if found is None:
            raise InvalidArgument(f"Unknown runtime specified {name}")
        return found

    def programs(self) -> dict[str, str]:
        """What users are shown: the program of each."""
        return {name: command[0] if command else "bulkhead-runtime" for name, command in self.commands.items()}


def configured(config: ManagerConfig, which: Callable[[str], str | None] | None = None) -> Runtimes:
    """The runtimes of an installation; `which` finds a program on the search path.

    Raises InvalidArgument for a default that does not exist, and for a path that cannot be one.
    """
    find = which or _which
    commands: dict[str, Command] = {OWN: ()}
    for name in _FOUND:
        path = find(name)
        if path is not None:
            commands[name] = (path,)
    for name, told in config.runtimes.items():
        commands[name] = _command(name, told, find)
    commands.setdefault(_RUNC, ())
    commands.setdefault(_RUNC_SHIM, commands[_RUNC])
    if config.default_runtime not in commands:
        raise InvalidArgument(f"cannot use [manager] default_runtime: unknown runtime {config.default_runtime!r}")
    return Runtimes(commands=MappingProxyType(commands), default=config.default_runtime)


def _which(name: str) -> str | None:
    return shutil.which(name, path=_PATH)


def _command(name: str, told: RuntimeConfig, find: Callable[[str], str | None]) -> Command:
    where = f"[manager.runtimes.{name}]"
    if name == OWN:
        raise InvalidArgument(f"cannot use {where}: the name is the engine's own runtime")
    # A program that is not there yet is no reason to refuse all others: whoever asks for it is told.
    path = told.path if "/" in told.path else find(told.path) or told.path
    if not told.path or "\0" in told.path or ("/" in told.path and not told.path.startswith("/")):
        raise InvalidArgument(f"cannot use {where}: {told.path!r} is no absolute path and no program's name")
    return (path, *told.args)
