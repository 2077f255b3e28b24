"""`[manager] userns_remap`: containers whose root is nobody on the host (dockerd's `userns-remap`).

The setting names a user, and a group if that is another one, whose subordinate ids (subuid(5), subgid(5)) the
containers get; "default" is the user dockremap. A container keeps the ids that it was created with.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from bulkhead.errors import InvalidArgument
from bulkhead.linux import idmap, overlay
from bulkhead.manager.config import ManagerConfig
from bulkhead.model.container import ContainerSpec
from bulkhead.model.remapping import IdRange, Remapping, in_sequence

log = structlog.get_logger()

_DEFAULT, _DEFAULT_USER = "default", "dockremap"
_LAST_ID = 0xFFFFFFFE
_SETTING = "cannot use [manager] userns_remap"
Granted = list[tuple[int, int]]


def configured(config: ManagerConfig) -> Remapping | None:
    """The ids that new containers get; None when they have the host's. Raises InvalidArgument."""
    if not config.userns_remap:
        return None
    user, group = _names(config.userns_remap)
    if user == "root":
        log.warning("User namespaces: root cannot be remapped with itself; user namespaces are OFF")
        return None
    uid, gid = _uid(user), _gid(group)
    uids = _granted(Path(config.subuid_file), user, uid)
    gids = _granted(Path(config.subgid_file), group, gid)
    return Remapping(uids=in_sequence(uids), gids=in_sequence(gids))


def check_kernel(remapping: Remapping, directory: Path) -> None:
    """Mount a root file system of these ids, made of layers in `directory`, and let go of it: later would be too late
    to say that it cannot be done. Blocking. Raises InvalidArgument."""
    uids, gids = mappings(remapping.uids), mappings(remapping.gids)
    try:
        with TemporaryDirectory(prefix=".remapping.", dir=directory) as place, ExitStack() as opened:
            lower, upper, work = (str(Path(place, name)) for name in ("lower", "upper", "work"))
            for made in (lower, upper, work):
                Path(made).mkdir()
            users = idmap.namespace(uids, gids)
            opened.callback(os.close, users)
            root = overlay.idmapped((lower,), upper=upper, work=work, users=users, owner=remapping.root)
            opened.callback(os.close, root)
            if os.fstatvfs(root).f_flag & os.ST_RDONLY:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    except OSError as error:
        raise InvalidArgument(
            f"{_SETTING}: no root file system can be made of layers in {directory} ({error.strerror}): it takes Linux "
            "6.15 and a file system that knows idmapped mounts (ext4, xfs, btrfs)"
        ) from error


def mappings(ranges: Iterable[IdRange]) -> list[idmap.Mapping]:
    """As the kernel is told."""
    return [(each.inside, each.outside, each.count) for each in ranges]


def remapping_of(spec: ContainerSpec, configured_ids: Remapping | None, runtime: tuple[str, ...]) -> Remapping | None:
    """What a container of this spec gets. Raises InvalidArgument, with Docker's texts, for what cannot be remapped;
    `runtime` is the program that launches it, if that is not the engine's own core."""
    if configured_ids is None or spec.userns_mode == "host":
        return None
    for refused, reason in _REFUSED:
        if refused(spec):
            raise InvalidArgument(reason)
    if runtime:
        raise InvalidArgument(
            f"cannot create a container of runtime {spec.runtime}: with userns_remap it runs in the host's user "
            "namespace only (--userns=host)"
        )
    return configured_ids


_REFUSED: tuple[tuple[Callable[[ContainerSpec], bool], str], ...] = (
    (
        lambda spec: spec.privileged,
        "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when "
        "running privileged mode",
    ),
    (
        lambda spec: spec.network_mode == "host",
        "cannot share the host's network namespace when user namespaces are enabled",
    ),
    (lambda spec: spec.pid_mode == "host", "cannot share the host PID namespace when user namespaces are enabled"),
)


def _names(text: str) -> tuple[str, str]:
    """The names of the user and the group, whose ids the setting may give."""
    user, separator, group = text.partition(":")
    if not user or ":" in group or (separator and not group):
        raise InvalidArgument(f"{_SETTING}: Invalid user/group specification in --userns-remap: {text!r}")
    name = _DEFAULT_USER if user == _DEFAULT else _user_name(user)
    if separator:
        return name, _group_name(group)
    return name, _group_name(user) if user.isdecimal() else name


def _user_name(text: str) -> str:
    if not text.isdecimal():
        return text
    try:
        return pwd.getpwuid(int(text)).pw_name
    except (KeyError, OverflowError):
        raise InvalidArgument(f"{_SETTING}: Uid {text} has no entry in /etc/passwd") from None


def _group_name(text: str) -> str:
    if not text.isdecimal():
        return text
    try:
        return grp.getgrgid(int(text)).gr_name
    except (KeyError, OverflowError):
        raise InvalidArgument(f"{_SETTING}: Gid {text} has no entry in /etc/group") from None


def _uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise InvalidArgument(f"{_SETTING}: there is no user {name!r}{_remedy(name)}") from None


def _gid(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise InvalidArgument(f"{_SETTING}: there is no group {name!r}{_remedy(name)}") from None


def _remedy(name: str) -> str:
    if name != _DEFAULT_USER:
        return ""
    return f": `useradd --system --user-group --no-create-home --shell /bin/false {name}` makes it"


def _granted(file: Path, name: str, number: int) -> Granted:
    """(first, count) of each line of the file for the user or group, by name or number."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError as error:
        raise InvalidArgument(f"{_SETTING}: cannot read {file}: {error.strerror}") from error
    found = [_range(file, line) for line in lines if line.partition(":")[0].strip() in (name, str(number))]
    if not found:
        raise InvalidArgument(
            f"{_SETTING}: {file} grants {name!r} no ids: a line like {name}:100000:65536 does (see subuid(5))"
        )
    _check(file, name, found)
    return found


def _range(file: Path, line: str) -> tuple[int, int]:
    parts = [part.strip() for part in line.split(":")]
    if len(parts) != 3 or not all(part.isdecimal() for part in parts[1:]):
        raise InvalidArgument(f"{_SETTING}: {file}: {line!r} is not name:first:count")
    return int(parts[1]), int(parts[2])


def _check(file: Path, name: str, found: Granted) -> None:
    """What the kernel would refuse without a word, and what would be the host's root."""
    if len(found) > idmap.MAX_LINES:
        raise InvalidArgument(f"{_SETTING}: {file} has more than {idmap.MAX_LINES} lines for {name!r}")
    for first, count in found:
        if first == 0 or count == 0 or first + count - 1 > _LAST_ID:
            raise InvalidArgument(f"{_SETTING}: {file}: {name}:{first}:{count} is no range of subordinate ids")
    if sum(count for _, count in found) - 1 > _LAST_ID:
        raise InvalidArgument(f"{_SETTING}: {file} grants {name!r} more ids than there are")
    for (first, count), (second, _) in pairwise(sorted(found)):
        if first + count > second:
            raise InvalidArgument(f"{_SETTING}: {file}: two ranges of {name!r} overlap at {second}")
