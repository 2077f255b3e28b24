"""Descriptors that come with a plan, in the order in which the stage takes them (see nsexec/plan.py)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from bulkhead.errors import InvalidArgument
from bulkhead.linux import idmap, mounts, namespaces
from bulkhead.nsexec import Report, ReportKind
from bulkhead.nsexec.plan import Flag, MountFlag, Plan
from bulkhead.runtime import answers, translate
from bulkhead.runtime.failures import CREATE, launch_failed

Config = Mapping[str, Any]


def pack(plan: Plan, config: Config, *, exec_fifo: str | None, preserve_fds: int, stack: ExitStack) -> list[int]:
    """Everything a new container's plan needs; what is opened here is closed by `stack`."""
    packed = [open_namespace(kind, path, stack) for kind, path in translate.joined_namespaces(config)]
    if plan.root is not None and plan.flags & Flag.ROOT_GIVEN:
        packed.append(_tree(plan.root.path, stack, step="rootfs", recursive=True))
    packed += _sources(plan, config, stack)
    if exec_fifo is not None:
        packed.append(_fifo(exec_fifo, stack))
    return packed + preserved(preserve_fds)


def preserved(count: int) -> list[int]:
    """Descriptors 3 and up of this process, which the payload shall have as well."""
    wanted = list(range(3, 3 + count))
    for fd in wanted:
        try:
            os.fstat(fd)
        except OSError:
            raise InvalidArgument(f"cannot preserve descriptor {fd}: it is not open") from None
    return wanted


def open_namespace(kind: str, path: str, stack: ExitStack) -> int:
    """InvalidArgument when there is none of that kind at the path."""
    try:
        fd = namespaces.open_namespace(path, namespaces.FLAGS[kind])
    except OSError as error:
        raise InvalidArgument(f"cannot join {kind} namespace {path}: {error.strerror}") from error
    stack.callback(os.close, fd)
    return fd


def _fifo(path: str, stack: ExitStack) -> int:
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(f"cannot open exec fifo {path}: {error.strerror}") from error
    stack.callback(os.close, fd)
    return fd


def _tree(path: str, stack: ExitStack, *, step: str, recursive: bool, below: str = "") -> int:
    """A copy of a mount that the container may not reach by itself: its root is nobody to the host's directories."""
    try:
        fd = mounts.clone_below(path, below, recursive=recursive)
    except OSError as error:
        named = f"{path} (subpath {below})" if below else path
        report = Report(kind=ReportKind.ERROR, step=step, errno=error.errno or 0, detail=named)
        raise launch_failed(report, CREATE) from error
    stack.callback(os.close, fd)
    return fd


def _sources(plan: Plan, config: Config, stack: ExitStack) -> list[int]:
    """The given mounts. `plan.mounts` has them in the config's order, as `translate.given_mounts` does."""
    entries = translate.given_mounts(config)
    given = [mount for mount in plan.mounts if mount.flags & MountFlag.GIVEN]
    return [_source(entry, mount.source, config, stack) for entry, mount in zip(entries, given, strict=True)]


def _source(entry: Config, source: str, config: Config, stack: ExitStack) -> int:
    options = mounts.parse_options(entry.get("options") or ())
    below = translate.subpath(config, entry)
    fd = _tree(source, stack, step="mount", recursive=options.recursive, below=below)
    if translate.is_idmapped(entry):
        users = _mapping_namespace(entry, config, stack)
        try:
            mounts.map_ids(fd, users, recursive=options.idmap_tree)
        except OSError as error:
            report = Report(kind=ReportKind.ERROR, step="mount", errno=error.errno or 0, detail=f"{source} (idmap)")
            raise launch_failed(report, CREATE) from error
    return fd


def _mapping_namespace(entry: Config, config: Config, stack: ExitStack) -> int:
    """A user namespace with the mount's own mappings, else with the container's."""
    linux: Config = config.get("linux") or {}
    joined = dict(translate.joined_namespaces(config)).get("user")
    if joined and not entry.get("uidMappings"):
        return open_namespace("user", joined, stack)
    told = entry if entry.get("uidMappings") else linux
    uids, gids = answers.mappings(told, "uidMappings"), answers.mappings(told, "gidMappings")
    try:
        fd = idmap.namespace(uids, gids)
    except OSError as error:
        raise InvalidArgument(f"cannot map the ids of mount {entry['destination']}: {error}") from error
    stack.callback(os.close, fd)
    return fd
