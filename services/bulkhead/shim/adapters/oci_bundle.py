"""The engine's config.json in the words of the specification alone, for runtimes that are not ours.

Ours resolves users inside the container and knows the domain name; of others Docker's daemon does that beforehand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from bulkhead.linux import atomicfile, resolve
from bulkhead.runtime import accounts, translate

# What every runtime since 2018 knows; crun refuses a version that it does not.
_VERSION = "1.0.2"
_OWN_ANNOTATION = "org.bulkhead."
_PASSWD_LIMIT = 8 << 20
# Docker gives others than root no more than an exec would leave them.
_BOUNDING_ONLY = ("bounding",)

Config = Mapping[str, Any]


def write(directory: str, config: Config, rootfs: str, root: int) -> None:
    """`<directory>/config.json` for the container whose root file system is at `rootfs`, and open as `root`.

    Raises LaunchFailed for a user that does not exist, OSError.
    """
    annotations = dict(config.get("annotations") or {})
    plain = {key: value for key, value in annotations.items() if not key.startswith(_OWN_ANNOTATION)}
    written = {
        **config,
        "ociVersion": _VERSION,
        "process": _process(config["process"], _named(config, config["process"]), _groups(config), root),
        "root": {**(config.get("root") or {}), "path": rootfs},
        "annotations": plain,
        "linux": _linux(config),
    }
    _write(f"{directory}/config.json", written)


def write_process(path: str, config: Config, process: Config, root: int) -> None:
    """An exec's process, with what it does not say taken from the container's. Raises as `write`."""
    merged = translate.merged_process(config, process)
    _write(path, _process(merged, _named(config, merged), _groups(config), root))


def _process(process: Config, named: str | None, groups: Sequence[str], root: int) -> dict[str, Any]:
    told = dict(process)
    if named is None:
        return told
    account = accounts.resolve(named, groups, lambda path: resolve.read_regular(root, path, _PASSWD_LIMIT))
    told["user"] = {"uid": account.uid, "gid": account.gid, "additionalGids": list(account.groups)}
    told["env"] = _with_home(told.get("env") or (), account)
    if account.uid != 0:
        sets = told.get("capabilities") or {}
        told["capabilities"] = {name: sets[name] for name in _BOUNDING_ONLY if name in sets}
    return told


def _named(config: Config, process: Config) -> str | None:
    user: Config = process.get("user") or {}
    if user.get("username"):
        return str(user["username"])
    annotation = (config.get("annotations") or {}).get(translate.USER_ANNOTATION)
    return None if annotation is None else str(annotation)


def _groups(config: Config) -> list[str]:
    text = (config.get("annotations") or {}).get(translate.GROUPS_ANNOTATION) or ""
    return [name for name in text.split(",") if name]


def _with_home(env: Sequence[str], account: accounts.Account) -> list[str]:
    said = [entry for entry in env if entry.startswith("HOME=") and entry != "HOME="]
    return list(env) if said else [*(entry for entry in env if entry != "HOME="), f"HOME={account.home}"]


def _linux(config: Config) -> dict[str, Any]:
    """With the domain name as Docker sets it for runc: the field is younger than the runtimes around."""
    linux = dict(config.get("linux") or {})
    if config.get("domainname"):
        linux["sysctl"] = {**(linux.get("sysctl") or {}), "kernel.domainname": config["domainname"]}
    return linux


def _write(path: str, content: Mapping[str, Any]) -> None:
    atomicfile.write(path, json.dumps(content).encode(), durable=False)


def open_root(path: str) -> int:
    """A root file system's descriptor, for `write` and `write_process`. Raises OSError."""
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
