"""The setting `userns_remap`: whose ids, by which files, and what is refused."""

from __future__ import annotations

import errno
import grp
import os
import pwd
from dataclasses import replace
from pathlib import Path

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.linux import overlay
from bulkhead.manager import remapping
from bulkhead.manager.config import ManagerConfig
from bulkhead.model.container import ContainerSpec
from bulkhead.model.remapping import IdRange, Remapping
from tests.support.descriptors import left_since, open_descriptors

DAEMON = pwd.getpwnam("daemon")
IDS = Remapping(uids=(IdRange(inside=0, outside=1, count=1),), gids=(IdRange(inside=0, outside=2, count=1),))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "subuid").write_text("# somebody\nbin:1:5\ndaemon:200000:65536\n")
    (tmp_path / "subgid").write_text("daemon:300000:65536\nbin:500000:10\n")
    return tmp_path


def config(files: Path, setting: str) -> ManagerConfig:
    return ManagerConfig(userns_remap=setting, subuid_file=str(files / "subuid"), subgid_file=str(files / "subgid"))


def found(files: Path, setting: str) -> Remapping:
    told = remapping.configured(config(files, setting))
    assert told is not None
    return told


def test_without_the_setting_nobody_is_remapped(files: Path) -> None:
    assert remapping.configured(config(files, "")) is None
    assert remapping.configured(config(files, "root")) is None


@pytest.mark.parametrize("setting", ["daemon", f"{DAEMON.pw_uid}", "daemon:daemon", f"daemon:{DAEMON.pw_gid}"])
def test_a_user_by_name_or_number(files: Path, setting: str) -> None:
    told = found(files, setting)
    assert told.uids == (IdRange(inside=0, outside=200000, count=65536),)
    assert told.root == (200000, 300000)


def test_a_group_of_its_own(files: Path) -> None:
    assert found(files, "daemon:bin").root == (200000, 500000)
    assert found(files, f"{DAEMON.pw_uid}:{grp.getgrnam('bin').gr_gid}").root == (200000, 500000)


def test_ranges_follow_each_other_and_numbers_are_names(files: Path) -> None:
    (files / "subuid").write_text(f"daemon:200000:10\n{DAEMON.pw_uid}:400000:5\n")
    told = found(files, "daemon")
    assert told.uids == (IdRange(inside=0, outside=200000, count=10), IdRange(inside=10, outside=400000, count=5))


def test_the_default_is_dockremap(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(pwd, "getpwnam", {}.__getitem__)
        with pytest.raises(InvalidArgument, match="no user 'dockremap': `useradd --system"):
            remapping.configured(config(files, "default"))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: {"dockremap": DAEMON}[name])
    monkeypatch.setattr(grp, "getgrnam", lambda name: {"dockremap": grp.getgrgid(DAEMON.pw_gid)}[name])
    for name in ("subuid", "subgid"):
        (files / name).write_text("dockremap:200000:65536\n")
    assert found(files, "default").root == (200000, 200000)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("a:b:c", "Invalid user/group specification in --userns-remap: 'a:b:c'"),
        (":daemon", "Invalid user/group specification"),
        ("daemon:", "Invalid user/group specification"),
        ("nobody-at-all", "there is no user 'nobody-at-all'"),
        ("daemon:nobody-at-all", "there is no group 'nobody-at-all'"),
        ("4000000001", "Uid 4000000001 has no entry in /etc/passwd"),
        ("daemon:4000000001", "Gid 4000000001 has no entry in /etc/group"),
        ("99999999999999999999", "has no entry in /etc/passwd"),
        ("sys", "subuid grants 'sys' no ids: a line like sys:100000:65536 does"),
    ],
)
def test_what_the_setting_cannot_be(files: Path, setting: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=r"cannot use \[manager\] userns_remap: ") as refused:
        remapping.configured(config(files, setting))
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("daemon:x:1", "'daemon:x:1' is not name:first:count"),
        ("daemon:1", "'daemon:1' is not name:first:count"),
        ("daemon:0:65536", "daemon:0:65536 is no range of subordinate ids"),
        ("daemon:100000:0", "is no range"),
        ("daemon:4294967295:1", "is no range"),
        ("daemon:100000:10\ndaemon:100009:10", "two ranges of 'daemon' overlap at 100009"),
        ("\n".join(f"daemon:{100000 + 2 * i}:1" for i in range(341)), "more than 340 lines"),
    ],
)
def test_what_the_files_cannot_say(files: Path, lines: str, reason: str) -> None:
    (files / "subuid").write_text(lines)
    with pytest.raises(InvalidArgument, match=r"cannot use \[manager\] userns_remap: ") as refused:
        remapping.configured(config(files, "daemon"))
    assert reason in str(refused.value)


def test_a_file_that_is_not_there(files: Path) -> None:
    (files / "subgid").unlink()
    with pytest.raises(InvalidArgument, match=r"cannot read .*subgid: No such file or directory"):
        remapping.configured(config(files, "daemon"))


def test_who_is_remapped() -> None:
    spec = ContainerSpec(network_mode="container:x", pid_mode="container:x", ipc_mode="host")
    assert remapping.remapping_of(spec, IDS, ()) is IDS
    assert remapping.remapping_of(spec, None, ("/usr/bin/runc",)) is None
    everything = replace(spec, userns_mode="host", privileged=True, network_mode="host", pid_mode="host")
    assert remapping.remapping_of(everything, IDS, ("/usr/bin/runc",)) is None


def test_a_runtime_of_others_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"of runtime kata: .*--userns=host"):
        remapping.remapping_of(ContainerSpec(runtime="kata"), IDS, ("/usr/bin/kata",))


def test_a_kernel_and_disk_that_can_do_it_leave_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounts: needs root")
    remapping.check_kernel(IDS, tmp_path)
    assert not list(tmp_path.iterdir())
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_a_file_system_that_cannot_do_it_is_named() -> None:
    if os.geteuid() != 0:
        pytest.skip("mounts: needs root")
    with pytest.raises(InvalidArgument, match="no root file system can be made of layers in /proc/self"):
        remapping.check_kernel(IDS, Path("/proc/self"))


def test_a_kernel_that_cannot_is_told_of_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below Linux 6.15 an overlay takes no layers that are not mounted: EINVAL."""
    if os.geteuid() != 0:
        pytest.skip("user namespaces with mappings: needs root")

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    before = open_descriptors()
    monkeypatch.setattr(overlay, "idmapped", refuse)
    with pytest.raises(InvalidArgument, match=r"userns_remap: no root file system .*Invalid argument.* Linux 6\.15"):
        remapping.check_kernel(IDS, tmp_path)
    assert not list(tmp_path.iterdir()) and not left_since(before)
