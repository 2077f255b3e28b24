"""Containers as processes: create, start, adopt, exec, reap.

Synchronous and thread-free: the caller is a lean shim or a command, and the parent of what it launches. A launch is
a short conversation with the stage (runtime.conversation); everything that was made is undone when it fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bulkhead import nsexec
from bulkhead.linux.cgroups import hierarchies
from bulkhead.linux.pidfd import ExitStatus
from bulkhead.runtime import filters
from bulkhead.runtime.creation import Manner, create, create_planned
from bulkhead.runtime.execs import ExecProcess, ReadyExec, exec_, exec_planned
from bulkhead.runtime.stage import Network
from bulkhead.runtime.task import Task, adopt, cgroup_of, reap

__all__ = [
    "ExecProcess",
    "ExitStatus",
    "Manner",
    "Network",
    "ReadyExec",
    "Task",
    "adopt",
    "cgroup_of",
    "create",
    "create_planned",
    "exec_",
    "exec_planned",
    "prepare",
    "reap",
]

Config = Mapping[str, Any]


def prepare(*, filter_directory: Path | None = None, profiles: Sequence[Config] = ()) -> None:
    """Do once, before forking, what every launch needs: the sealed stage, the mounted cgroup hierarchies,
    the seccomp filters that are likely. Compiled filters are kept in `filter_directory`."""
    nsexec.prepare()
    hierarchies()
    filters.use_directory(filter_directory)
    for profile in profiles:
        filters.filter_for(profile)
