"""Who a process is: names from the image's files, numbers as they are, and never root by mistake."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from bulkhead.errors import LaunchFailed
from tests.support.containers import Box, Config


def as_user(user: str, groups: str = "") -> dict[str, str]:
    return {"org.bulkhead.user": user, **({"org.bulkhead.groups": groups} if groups else {})}


def identity(box: Box, annotations: dict[str, str], **process: object) -> tuple[int, int, set[int], str]:
    """uid, gid, supplementary groups, HOME."""

    def edit(config: Config) -> None:
        config["annotations"] = annotations

    output = box.run("sh", "-c", "cat /proc/self/status; echo HOME=$HOME", edit=edit, **process).output
    numbers = {
        name: [int(n) for n in rest.split()]
        for name, rest in re.findall(r"^(Uid|Gid|Groups):\t(.*)$", output, re.MULTILINE)
    }
    assert len(set(numbers["Uid"])) == len(set(numbers["Gid"])) == 1
    return numbers["Uid"][0], numbers["Gid"][0], set(numbers["Groups"]), output.rsplit("HOME=", 1)[1].strip()


@pytest.mark.parametrize(
    ("user", "groups", "expected"),
    [
        ("", "", (0, 0, {0, 10}, "/root")),
        ("root", "", (0, 0, {0, 10}, "/root")),
        ("bob", "", (1000, 1000, {1000, 10}, "/home/bob")),
        ("1000", "", (1000, 1000, {1000, 10}, "/home/bob")),
        ("bob:staff", "", (1000, 50, {50}, "/home/bob")),
        ("bob:50", "", (1000, 50, {50}, "/home/bob")),
        ("1000:77", "", (1000, 77, {77}, "/home/bob")),
        ("bob:staff:wheel", "", (1000, 50, {50}, "/home/bob")),
        ("1:2:3", "", (1, 2, {2}, "/")),
        ("4242", "", (4242, 0, {0}, "/")),
        ("4242:wheel", "", (4242, 10, {10}, "/")),
        ("01000", "", (1000, 1000, {1000, 10}, "/home/bob")),
        ("bob", "staff,77", (1000, 1000, {1000, 10, 50, 77}, "/home/bob")),
        ("2147483647", "", (2147483647, 0, {0}, "/")),
        # A number is never a name: passwd has a user called 1001 that is root.
        ("1001", "", (1001, 0, {0}, "/")),
    ],
)
def test_users(box: Box, user: str, groups: str, expected: tuple[int, int, set[int], str]) -> None:
    assert identity(box, as_user(user, groups)) == expected


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ("nosuch", "unable to find user nosuch: no matching entries in passwd file"),
        ("bob:nosuch", "unable to find group nosuch: no matching entries in group file"),
        ("1 ", "unable to find user 1 : no matching entries in passwd file"),
        ("0x0", "unable to find user 0x0: no matching entries in passwd file"),
        ("１", "unable to find user １: no matching entries in passwd file"),
        ("-1", "uids and gids must be in range 0-2147483647"),
        ("2147483648", "uids and gids must be in range 0-2147483647"),
        ("4294967295", "uids and gids must be in range 0-2147483647"),
        ("4294967296", "uids and gids must be in range 0-2147483647"),
        ("99999999999999999999999", "uids and gids must be in range 0-2147483647"),
        ("0:4294967296", "uids and gids must be in range 0-2147483647"),
    ],
)
def test_users_that_are_none(box: Box, user: str, text: str) -> None:
    with pytest.raises(LaunchFailed) as caught:
        identity(box, as_user(user))
    assert str(caught.value) == text
    assert (caught.value.step, caught.value.exit_code) == ("user", 128)


def test_a_group_to_add_must_exist(box: Box) -> None:
    with pytest.raises(LaunchFailed, match="unable to find group nosuch: no matching entries in group file"):
        identity(box, as_user("bob", "nosuch"))


def test_plain_numbers_of_the_config_are_taken_as_they_are(box: Box) -> None:
    user = {"uid": 1000, "gid": 50, "additionalGids": [7, 8]}
    assert identity(box, {}, user=user) == (1000, 50, {7, 8}, "/home/bob")


def test_another_user_keeps_no_capability(box: Box) -> None:
    def edit(config: Config) -> None:
        config["annotations"] = as_user("bob")

    output = box.run("grep", "Cap", "/proc/self/status", edit=edit).output
    assert re.findall(r"Cap(?:Inh|Prm|Eff|Amb):\t(\w+)", output) == ["0" * 16] * 4


def test_numbers_work_without_a_passwd_file(box: Box) -> None:
    for name in ("passwd", "group"):
        (box.image / "etc" / name).unlink()
    assert identity(box, as_user("5:6")) == (5, 6, {6}, "/")
    with pytest.raises(LaunchFailed, match="unable to find user root"):
        identity(box, as_user("root"))


def test_home_of_the_environment_wins(box: Box) -> None:
    assert identity(box, as_user("bob"), env=["PATH=/bin", "HOME=/elsewhere"])[3] == "/elsewhere"
    assert identity(box, as_user("bob"), env=["PATH=/bin", "HOME="])[3] == "/home/bob"


@pytest.mark.parametrize(
    "line", ["bob:x:0x3e8:0::/:", "bob:x::0::/:", "bob:x:-5:0::/:", "bob:x:4294967296:0::/:", "bob", "bob:x"]
)
def test_a_broken_line_is_nobody(box: Box, line: str) -> None:
    """Reading its uid as 0 would be a gift."""
    (box.image / "etc" / "passwd").write_text(line + "\n")
    with pytest.raises(LaunchFailed, match="unable to find user bob"):
        identity(box, as_user("bob"))


def test_a_huge_file_is_read_in_part_only(box: Box) -> None:
    with (box.image / "etc" / "passwd").open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(LaunchFailed, match="unable to find user bob"):
        identity(box, as_user("bob"))


def test_a_long_line_does_not_hide_the_next(box: Box) -> None:
    (box.image / "etc" / "passwd").write_text("x" * 300_000 + ":x:0:0::/:\nbob:x:1000:1000::/home/bob:/bin/sh\n")
    assert identity(box, as_user("bob"))[0] == 1000


@pytest.mark.parametrize("kind", ["fifo", "directory", "device"])
def test_what_is_no_regular_file_is_refused(box: Box, kind: str) -> None:
    path = box.image / "etc" / "passwd"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        os.mknod(path, 0o20666, os.makedev(1, 5))
    with pytest.raises(LaunchFailed) as caught:
        identity(box, as_user("bob"))
    assert caught.value.step == "user"


def test_a_link_stays_inside(box: Box) -> None:
    """/etc/passwd -> /etc/shadow of the host would be read as root."""
    path = box.image / "etc" / "passwd"
    path.unlink()
    path.symlink_to("../../../../../../../../etc/hostpasswd")
    Path(box.image / "etc" / "hostpasswd").write_text("bob:x:1234:1::/:\n")
    assert identity(box, as_user("bob"))[0] == 1234
