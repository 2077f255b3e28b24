"""Users by a container's own files, with nsinit's rules; the files are hostile."""

from __future__ import annotations

import pytest

from bulkhead.errors import LaunchFailed
from bulkhead.runtime.accounts import Account, resolve

FILES = {
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33::/var/www:/bin/false\n7:x:70:70::/seven:/x\n",
    "/etc/group": b"root:x:0:\nweb:x:33:\nlogs:x:40:web,7\nsome:x:41:webb\nbad:x:nan:web\n",
}


@pytest.mark.parametrize(
    ("spec", "groups", "expected"),
    [
        ("web", [], Account(uid=33, gid=33, groups=(33, 40), home="/var/www")),
        ("33", [], Account(uid=33, gid=33, groups=(33, 40), home="/var/www")),
        ("web:logs", [], Account(uid=33, gid=40, groups=(40,), home="/var/www")),
        ("web", ["some", "99", "logs"], Account(uid=33, gid=33, groups=(33, 40, 41, 99), home="/var/www")),
        ("1234", [], Account(uid=1234, gid=0, groups=(0,), home="/")),
        ("7", [], Account(uid=7, gid=0, groups=(0,), home="/")),
        ("web:logs:", [], Account(uid=33, gid=40, groups=(40,), home="/var/www")),
        ("1:2:3", [], Account(uid=1, gid=2, groups=(2,), home="/")),
        ("web::logs", [], Account(uid=33, gid=33, groups=(33, 40), home="/var/www")),
        (":40", [], Account(uid=0, gid=40, groups=(40,), home="/root")),
        ("0", [], Account(uid=0, gid=0, groups=(0,), home="/root")),
    ],
)
def test_who_it_is(spec: str, groups: list[str], expected: Account) -> None:
    assert resolve(spec, groups, FILES.get) == expected


@pytest.mark.parametrize(
    ("spec", "groups", "text"),
    [
        ("nobody", [], "unable to find user nobody: no matching entries in passwd file"),
        ("web:none", [], "unable to find group none: no matching entries in group file"),
        ("web", ["none"], "unable to find group none: no matching entries in group file"),
        ("2147483648", [], "uids and gids must be in range 0-2147483647"),
        ("-1", [], "uids and gids must be in range 0-2147483647"),
        ("9" * 5000, [], "uids and gids must be in range 0-2147483647"),
    ],
)
def test_who_does_not_exist(spec: str, groups: list[str], text: str) -> None:
    with pytest.raises(LaunchFailed) as refused:
        resolve(spec, groups, FILES.get)
    assert str(refused.value) == text


def test_without_files_numbers_still_count() -> None:
    assert resolve("5:6", [], lambda _: None) == Account(uid=5, gid=6, groups=(6,), home="/")
    # "²" is a digit to str.isdigit.
    with pytest.raises(LaunchFailed):
        resolve("²", [], lambda _: None)
