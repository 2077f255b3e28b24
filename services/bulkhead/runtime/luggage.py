"""Descriptors that come with a plan, in the order in which the stage takes them (see nsexec/plan.py)."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from bulkhead.errors import InvalidArgument
from bulkhead.linux import idmap, locked_mounts, mounts, namespaces, overlay
from bulkhead.linux.locked_mounts import Source
from bulkhead.nsexec import Report, ReportKind
from bulkhead.nsexec.plan import Flag, Mount, MountFlag, Plan
from bulkhead.runtime import answers, translate
from bulkhead.runtime.failures import CREATE, launch_failed
from bulkhead.runtime.rootfs import OverlayRootfs, StdioFds

Config = Mapping[str, Any]


def pack(
    plan: Plan,
    config: Config,
    rootfs: OverlayRootfs | None,
    stdio: StdioFds,
    *,
    exec_fifo: str | None,
    preserve_fds: int,
    stack: ExitStack,
) -> list[int]:
    """Everything a new container's plan needs; what is opened here is closed by `stack`. The pipes of a container with
    a user namespace become its root's: nobody there could follow /dev/stdout to another's, or give them to its user."""
    packed = [open_namespace(kind, path, stack) for kind, path in translate.joined_namespaces(config)]
    users = Users(config, stack)
    mapped = translate.opens_for_users(config)
    root = list[_Wanted]()
    if plan.root is not None and plan.flags & Flag.ROOT_GIVEN:
        if rootfs is None:
            root.append(_Wanted(source=Source(path=plan.root.path, recursive=True), step="rootfs"))
        else:
            packed.append(_layers(rootfs, users, stack))
    entries = translate.given_mounts(config)
    sources = [_source_of(entry, mount.source, config) for entry, mount in zip(entries, _given(plan), strict=True)]
    trees = _trees([*root, *sources], users if mapped else None, stack)
    for entry, tree in zip(entries, trees[len(root) :], strict=True):
        _show_ids(entry, tree, users)
    packed += trees
    if mapped:
        _give(stdio, lambda: users.root)
    if exec_fifo is not None:
        packed.append(_fifo(exec_fifo, stack))
    return packed + preserved(preserve_fds)


def _given(plan: Plan) -> list[Mount]:
    """`plan.mounts` has them in the config's order, as `translate.given_mounts` does."""
    return [mount for mount in plan.mounts if mount.flags & MountFlag.GIVEN]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    source: Source
    step: str


def _source_of(entry: Config, source: str, config: Config) -> _Wanted:
    recursive = mounts.parse_options(entry.get("options") or ()).recursive
    wanted = Source(path=source, below=translate.subpath(config, entry), recursive=recursive)
    return _Wanted(source=wanted, step="mount")


def _trees(wanted: Sequence[_Wanted], users: Users | None, stack: ExitStack) -> list[int]:
    """Copies of mounts that the container may not reach by itself: its root is nobody to the host's directories.

    `users` of a container with a user namespace: what the host has forbidden, its root cannot allow.
    """
    found = list[int]()
    try:
        if users is not None:
            found = locked_mounts.clones(users.own, [each.source for each in wanted])
        else:
            for each in wanted:
                found.append(_clone(each.source))
    except locked_mounts.CloneError as error:
        step = next(each.step for each in wanted if each.source == error.source)
        path, below = error.source.path, error.source.below
        named = f"{path} (subpath {below})" if below else path
        raise launch_failed(
            Report(kind=ReportKind.ERROR, step=step, errno=error.errno or 0, detail=named), CREATE
        ) from error
    finally:
        for fd in found:
            stack.callback(os.close, fd)
    return found


def _clone(source: Source) -> int:
    try:
        return mounts.clone_below(source.path, source.below, recursive=source.recursive)
    except OSError as error:
        raise locked_mounts.CloneError.of(source, error.errno or 0) from error


def give_stdio(stdio: StdioFds, pid: int) -> None:
    """Give the pipes of a further process to root of process `pid`'s user namespace."""
    _give(stdio, lambda: idmap.root_of(pid))


def _give(stdio: StdioFds, root: Callable[[], tuple[int, int]]) -> None:
    """What is no pipe belongs to somebody else. Without its pipes' names the container works all the same."""
    pipes = [fd for fd in (stdio.stdin, stdio.stdout, stdio.stderr) if fd >= 0 and stat.S_ISFIFO(os.fstat(fd).st_mode)]
    with contextlib.suppress(OSError):
        for fd in pipes:
            os.fchown(fd, *root())


def _layers(rootfs: OverlayRootfs, users: Users, stack: ExitStack) -> int:
    """The container's overlay: its files have the container's ids on disk, and mapped ones where it is mounted."""
    try:
        fd = overlay.idmapped(
            rootfs.lower,
            upper=rootfs.upper,
            work=rootfs.work,
            users=users.own,
            owner=users.root,
            volatile=rootfs.volatile,
        )
    except OSError as error:
        report = Report(kind=ReportKind.ERROR, step="rootfs", errno=error.errno or 0, detail=f"{rootfs.upper} (idmap)")
        raise launch_failed(report, CREATE) from error
    stack.callback(os.close, fd)
    return fd


class Users:
    """The user namespaces by which ids are shown; what is opened is closed by `stack`."""

    def __init__(self, config: Config, stack: ExitStack) -> None:
        self._linux: Config = config.get("linux") or {}
        self._joined = dict(translate.joined_namespaces(config)).get("user")
        self._stack = stack
        self._own = -1

    @property
    def own(self) -> int:
        """The container's own, or one of the same mappings. InvalidArgument when it cannot be had."""
        if self._own < 0:
            joined = self._joined
            self._own = open_namespace("user", joined, self._stack) if joined else self._new(self._linux, "container")
        return self._own

    @property
    def root(self) -> tuple[int, int]:
        """The host's ids of the container's root. Raises OSError."""
        return translate.host_root(self._linux) or idmap.root_in(self.own)

    def of_mount(self, entry: Config) -> int:
        """With the mount's own mappings, else the container's."""
        return self._new(entry, f"mount {entry['destination']}") if entry.get("uidMappings") else self.own

    def _new(self, told: Config, whose: str) -> int:
        uids, gids = answers.mappings(told, "uidMappings"), answers.mappings(told, "gidMappings")
        try:
            fd = idmap.namespace(uids, gids)
        except OSError as error:
            raise InvalidArgument(f"cannot map the ids of {whose}: {error}") from error
        self._stack.callback(os.close, fd)
        return fd


def _show_ids(entry: Config, tree: int, users: Users) -> None:
    if not translate.is_idmapped(entry):
        return
    options = mounts.parse_options(entry.get("options") or ())
    try:
        mounts.map_ids(tree, users.of_mount(entry), recursive=options.idmap_tree)
    except OSError as error:
        detail = f"{entry['source']} (idmap)"
        report = Report(kind=ReportKind.ERROR, step="mount", errno=error.errno or 0, detail=detail)
        raise launch_failed(report, CREATE) from error
