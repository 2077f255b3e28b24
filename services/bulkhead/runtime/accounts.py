"""Who `user[:group]` is, by a container's own /etc/passwd and /etc/group: nsinit's rules (csrc/nsinit/users.c),
for runtimes that take numbers only.

A number is always a number, never a name. The files are hostile: a broken line counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from bulkhead.errors import LaunchFailed

_ID_LIMIT = 2147483647
_LINE_LIMIT = 64 << 10
_NO_SUCH_ACCOUNT = 128
# The content of a file in the container, None when there is none.
Read = Callable[[str], bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Numbers of a process's user; `groups` begins with its own."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class _Entry:
    name: bytes
    uid: int
    gid: int
    home: bytes


def resolve(spec: str, group_names: Sequence[str], read: Read) -> Account:
    """`user`, `user:group` or `:group`, and the names or numbers of further groups. What follows a second colon counts
    for nothing, as with runc.

    Raises LaunchFailed with Docker's texts for a name that is unknown or a number out of range.
    """
    user, group, *_ = (*spec.split(":"), "")
    number = _number(user) if user else 0
    found = next(_users(read, user if number is None else number), None)
    if found is None and number is None:
        raise _unknown("user", user, "passwd")
    uid = found.uid if found else number or 0
    gid = _group(group, read) if group else (found.gid if found else 0)
    members = () if group or found is None else _memberships(found.name, read)
    named = (_group(name, read) for name in group_names)
    groups = tuple(dict.fromkeys((gid, *members, *named)))
    home = found.home.decode(errors="surrogateescape") if found and found.home.startswith(b"/") else "/"
    return Account(uid=uid, gid=gid, groups=groups, home=home)


def _users(read: Read, wanted: str | int) -> Iterator[_Entry]:
    name = wanted.encode(errors="surrogateescape") if isinstance(wanted, str) else None
    for fields in _lines(read("/etc/passwd"), least=6):
        uid, gid = _id(fields[2]), _id(fields[3])
        if uid is None or gid is None:
            continue
        if (fields[0] == name) if name is not None else (uid == wanted):
            yield _Entry(fields[0], uid, gid, fields[5])


def _memberships(name: bytes, read: Read) -> Iterable[int]:
    for fields in _lines(read("/etc/group"), least=4):
        gid = _id(fields[2])
        if gid is not None and name and name in fields[3].split(b","):
            yield gid


def _group(name: str, read: Read) -> int:
    number = _number(name)
    if number is not None:
        return number
    for fields in _lines(read("/etc/group"), least=3):
        gid = _id(fields[2])
        if fields[0] == name.encode(errors="surrogateescape") and gid is not None:
            return gid
    raise _unknown("group", name, "group")


def _lines(text: bytes | None, *, least: int) -> Iterator[list[bytes]]:
    for line in (text or b"").split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= least and len(line) < _LINE_LIMIT:
            yield fields


def _id(text: bytes) -> int | None:
    if not text.isdigit():
        return None
    value = int(text[:20])
    return value if value <= _ID_LIMIT else None


def _number(text: str) -> int | None:
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit()):
        return None
    value = int(text[:20])
    if not 0 <= value <= _ID_LIMIT:
        raise _failed("uids and gids must be in range 0-2147483647")
    return value


def _unknown(kind: str, name: str, file: str) -> LaunchFailed:
    return _failed(f"unable to find {kind} {name}: no matching entries in {file} file")


def _failed(text: str) -> LaunchFailed:
    return LaunchFailed(text, step="user", errno=0, exit_code=_NO_SUCH_ACCOUNT)
