"""Binds, mounts and tmpfs of a create request, parsed by Docker's grammar."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable
from dataclasses import replace

from bulkhead.api.schema import hostconfig as wire
from bulkhead.api.versions import NEWEST, Version
from bulkhead.errors import InvalidArgument
from bulkhead.model.container import Mount
from bulkhead.model.volume import check_name

PROPAGATIONS = frozenset(("private", "rprivate", "shared", "rshared", "slave", "rslave"))
_RECURSIVE_READ_ONLY = Version(1, 44)
_CONSISTENCIES = frozenset(("consistent", "cached", "delegated", "default"))


def _always(_path: str) -> bool:
    return True


def parse_mounts(
    config: wire.HostConfig, exists: Callable[[str], bool] = _always, *, version: Version = NEWEST
) -> tuple[Mount, ...]:
    """Everything that HostConfig mounts; `exists` tells whether a path is there on the host.

    A client of a `version` without the choice takes what is mounted below a read-only bind for writable.

    Raises InvalidArgument in Docker's words, also for two mounts on one target.
    """
    binds = [parse_bind(text, config.VolumeDriver or "") for text in config.Binds or ()]
    mounts = [_parse_mount(mount, exists) for mount in config.Mounts or ()]
    tmpfs = [_parse_tmpfs(target, options) for target, options in (config.Tmpfs or {}).items()]
    _refuse_duplicates((*binds, *mounts, *tmpfs))
    if version < _RECURSIVE_READ_ONLY:
        _refuse_forced(config.Mounts or ())
        return (*(_writable_below(mount) for mount in (*binds, *mounts)), *tmpfs)
    return (*binds, *mounts, *tmpfs)


def _refuse_forced(mounts: Iterable[wire.Mount]) -> None:
    """It is no field of that version, but who sends it relies on it."""
    if any(mount.BindOptions and mount.BindOptions.ReadOnlyForceRecursive for mount in mounts):
        raise InvalidArgument(f"BindOptions.ReadOnlyForceRecursive needs API v{_RECURSIVE_READ_ONLY} or newer")


def _writable_below(mount: Mount) -> Mount:
    return replace(mount, writable_below=True) if mount.type == "bind" and mount.read_only else mount


def parse_bind(text: str, driver: str = "") -> Mount:
    """`source:target[:options]` of `-v`; a source that is no path is the name of a volume of `driver`."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts[:2]):
        raise InvalidArgument(f"invalid volume specification: '{text}'")
    source, target = parts[0], parts[1]
    if len(parts) == 2 and target in ("ro", "rw"):
        raise InvalidArgument(f"invalid volume specification: '{text}'")  # no mode without a source
    _check_target(target, "bind" if source.startswith("/") else "volume", f"invalid volume specification: '{text}': ")
    options = _parse_options(parts[2] if len(parts) == 3 else "")
    if source.startswith("/"):
        return Mount(
            type="bind",
            source=posixpath.normpath(source),
            target=posixpath.normpath(target),
            read_only=options.read_only,
            propagation=options.propagation,
            create_source=True,
        )
    check_name(source)
    if options.propagation:
        raise InvalidArgument(
            f"invalid volume specification: '{text}': "
            'invalid mount config for type "volume": field BindOptions must not be specified'
        )
    return Mount(
        type="volume",
        source=source,
        target=posixpath.normpath(target),
        read_only=options.read_only,
        no_copy=options.no_copy,
        volume_driver=driver,
    )


class _Options:
    read_only = False
    no_copy = False
    propagation = ""


def _parse_options(text: str) -> _Options:
    found = _Options()
    seen: set[str] = set()
    for word in text.split(",") if text else ():
        kind = _OPTION_KINDS.get(word)
        if kind is None or kind in seen:
            raise InvalidArgument(f"invalid mode: {text}")
        seen.add(kind)
        found.read_only = found.read_only or word == "ro"
        found.no_copy = found.no_copy or word == "nocopy"
        found.propagation = word if kind == "propagation" else found.propagation
    return found


# Labels (z, Z) and consistency are accepted and mean nothing here, as on a host without SELinux.
_OPTION_KINDS = {
    "ro": "access",
    "rw": "access",
    "z": "label",
    "Z": "label",
    "nocopy": "copy",
    **dict.fromkeys(PROPAGATIONS, "propagation"),
    **dict.fromkeys(_CONSISTENCIES, "consistency"),
}


def _check_target(target: str, kind: str, prefix: str = "") -> None:
    invalid = f'{prefix}invalid mount config for type "{kind}": '
    if not target:
        raise InvalidArgument(f"{invalid}field Target must not be empty")
    _check_place(target, invalid)


def _check_place(target: str, invalid: str = "") -> None:
    if "\0" in target or not target.startswith("/"):
        raise InvalidArgument(f"{invalid}invalid mount path: '{target}' mount path must be absolute")
    if posixpath.normpath(target) in ("/", "//"):
        raise InvalidArgument(f"{invalid}invalid specification: destination can't be '/'")


def _parse_mount(mount: wire.Mount, exists: Callable[[str], bool]) -> Mount:
    kind = mount.Type or ""
    parse = _MOUNT_TYPES.get(kind)
    if parse is None:
        raise InvalidArgument(f'invalid mount config for type "{kind}": mount type unknown')
    _check_target(mount.Target or "", kind)
    return parse(mount, exists)


def _parse_bind_mount(mount: wire.Mount, exists: Callable[[str], bool]) -> Mount:
    source, target = mount.Source or "", mount.Target or ""
    prefix = 'invalid mount config for type "bind": '
    _refuse_options(mount, "bind", "BindOptions")
    if not source:
        raise InvalidArgument(prefix + "field Source must not be empty")
    if not source.startswith("/"):
        raise InvalidArgument(f"{prefix}invalid mount path: '{source}' mount path must be absolute")
    options = mount.BindOptions or wire.BindSettings()
    if options.Propagation and options.Propagation not in PROPAGATIONS:
        raise InvalidArgument(f"{prefix}invalid propagation mode: {options.Propagation}")
    _refuse_read_only_conflicts(options, read_only=bool(mount.ReadOnly))
    if not options.CreateMountpoint and not exists(source):
        raise InvalidArgument(f"{prefix}bind source path does not exist: {source}")
    return Mount(
        type="bind",
        source=posixpath.normpath(source),
        target=posixpath.normpath(target),
        read_only=bool(mount.ReadOnly),
        writable_below=bool(options.ReadOnlyNonRecursive),
        propagation=options.Propagation or "",
        non_recursive=bool(options.NonRecursive),
        create_source=bool(options.CreateMountpoint),
    )


def _refuse_read_only_conflicts(options: wire.BindSettings, *, read_only: bool) -> None:
    asked = [name for name in ("ReadOnlyNonRecursive", "ReadOnlyForceRecursive") if getattr(options, name)]
    if asked and not read_only:
        raise InvalidArgument(f"mount options conflict: !ReadOnly && BindOptions.{asked[0]}")
    if len(asked) > 1:
        raise InvalidArgument("mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive")


def _parse_volume_mount(mount: wire.Mount, _exists: Callable[[str], bool]) -> Mount:
    _refuse_options(mount, "volume", "VolumeOptions")
    options = mount.VolumeOptions or wire.VolumeSettings()
    if mount.Source:
        check_name(mount.Source)
    _check_subpath(options.Subpath or "")
    driver = options.DriverConfig or wire.VolumeDriverSettings()
    return Mount(
        type="volume",
        source=mount.Source or "",
        target=posixpath.normpath(mount.Target or ""),
        read_only=bool(mount.ReadOnly),
        no_copy=bool(options.NoCopy),
        subpath=options.Subpath or "",
        volume_driver=driver.Name or "",
        volume_labels=options.Labels or {},
        volume_options=driver.Options or {},
    )


def _check_subpath(path: str) -> None:
    if path.startswith("/") or ".." in path.split("/"):
        raise InvalidArgument(
            'invalid mount config for type "volume": subpath must be a relative path within the volume'
        )


def _parse_tmpfs_mount(mount: wire.Mount, _exists: Callable[[str], bool]) -> Mount:
    _refuse_options(mount, "tmpfs", "TmpfsOptions")
    if mount.Source:
        raise InvalidArgument('invalid mount config for type "tmpfs": field Source must not be specified')
    options = mount.TmpfsOptions or wire.TmpfsSettings()
    if (options.SizeBytes or 0) < 0 or (options.Mode or 0) < 0:
        raise InvalidArgument('invalid mount config for type "tmpfs": SizeBytes and Mode must not be negative')
    return Mount(
        type="tmpfs",
        target=posixpath.normpath(mount.Target or ""),
        read_only=bool(mount.ReadOnly),
        size_bytes=options.SizeBytes or 0,
        mode=(options.Mode or 0) & 0o7777,
        options=tuple("=".join(pair) for pair in options.Options or ()),
    )


_MOUNT_TYPES: dict[str, Callable[[wire.Mount, Callable[[str], bool]], Mount]] = {
    "bind": _parse_bind_mount,
    "volume": _parse_volume_mount,
    "tmpfs": _parse_tmpfs_mount,
}


def _refuse_options(mount: wire.Mount, kind: str, own: str) -> None:
    for field in ("BindOptions", "VolumeOptions", "TmpfsOptions"):
        if field != own and getattr(mount, field) is not None:
            raise InvalidArgument(f'invalid mount config for type "{kind}": field {field} must not be specified')


def _parse_tmpfs(target: str, options: str) -> Mount:
    _check_place(target)
    return Mount(
        type="tmpfs",
        target=posixpath.normpath(target),
        options=tuple(word for word in options.split(",") if word),
    )


def _refuse_duplicates(mounts: Iterable[Mount]) -> None:
    seen: set[str] = set()
    for mount in mounts:
        if mount.target in seen:
            raise InvalidArgument(f"Duplicate mount point: {mount.target}")
        seen.add(mount.target)
