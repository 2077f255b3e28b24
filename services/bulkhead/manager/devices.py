"""Devices of the host that a container may use, as OCI nodes and cgroup rules."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bulkhead.errors import Internal, InvalidArgument
from bulkhead.model.container import DeviceMapping

# Of the host's /dev, what a container has of its own or must not have (runc: HostDevices).
_NOT_SHARED = frozenset(("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console", "ptmx"))
_RULE = re.compile(r"([abc]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")


def mapped(mappings: Iterable[DeviceMapping]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Nodes and allow rules of `--device`; a directory stands for every node below it.

    Raises Internal with Docker's text for what does not exist or is no device.
    """
    nodes: list[dict[str, Any]] = []
    rules: list[dict[str, Any]] = []
    for mapping in mappings:
        for source, target in _expanded(mapping):
            node = _node(source, target)
            if node is None:
                continue
            nodes.append(node)
            rules.append(_allow(node["type"], node["major"], node["minor"], mapping.permissions or "rwm"))
    return nodes, rules


def of_host() -> list[dict[str, Any]]:
    """Every device node of the host, for privileged containers."""
    return [node for path in _below(Path("/dev")) if (node := _node(path, str(path))) is not None]


def allow_rule(text: str) -> dict[str, Any]:
    """A cgroup rule as `--device-cgroup-rule` writes it: "c 42:* rmw". Raises InvalidArgument."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"invalid device cgroup rule format: '{text}'")
    major, minor = (None if each == "*" else int(each) for each in (match[2], match[3]))
    return _allow(match[1], major, minor, match[4])


def _allow(kind: str, major: int | None, minor: int | None, access: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
    if major is not None:
        rule["major"] = major
    if minor is not None:
        rule["minor"] = minor
    return rule


def _expanded(mapping: DeviceMapping) -> Iterator[tuple[Path, str]]:
    source = Path(mapping.path_on_host)
    target = mapping.path_in_container or mapping.path_on_host
    if not source.exists():
        raise Internal(
            f'error gathering device information while adding custom device "{source}": no such file or directory'
        )
    if not source.is_dir():
        if not (source.is_block_device() or source.is_char_device()):
            raise Internal(
                f'error gathering device information while adding custom device "{source}": not a device node'
            )
        yield source, target
        return
    below = [path for path in _below(source) if path.is_block_device() or path.is_char_device()]
    if not below:
        raise Internal(f'error gathering device information while adding custom device "{source}": not a device node')
    for path in below:
        yield path, target + str(path).removeprefix(str(source))


def _below(directory: Path) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in _NOT_SHARED:
                yield from _below(Path(entry.path))
        elif entry.name not in _NOT_SHARED:
            yield Path(entry.path)


def _node(path: Path, target: str) -> dict[str, Any] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    if stat.S_ISCHR(found.st_mode):
        kind = "c"
    elif stat.S_ISBLK(found.st_mode):
        kind = "b"
    else:
        return None
    return {
        "path": target,
        "type": kind,
        "major": os.major(found.st_rdev),
        "minor": os.minor(found.st_rdev),
        "fileMode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
    }
