"""`[manager] userns_remap`: can this machine do it, and are there ids for it?"""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bulkhead.ctl.doctor.findings import Area, Finding, Level, ok
from bulkhead.linux import idmap, overlay
from bulkhead.settings import Settings

_SUBJECT = "userns-remap"
_FILES = (("subuid_file", "/etc/subuid"), ("subgid_file", "/etc/subgid"))
_TRIED = (100_000, 65_536)
_ENOUGH = 65_536


def examine(settings: Settings) -> Iterator[Finding]:
    """Only a warning where nobody asked for it. Needs root."""
    told: Mapping[str, Any] = settings.tables.get("manager", {})
    asked = str(told.get("userns_remap", ""))
    trouble = _trouble(settings.instance.data)
    if trouble:
        level = Level.FAIL if asked else Level.WARN
        yield _told(level, f"cannot be used: {trouble}", "boot Linux 6.15 or newer; keep data on ext4, xfs or btrfs")
    else:
        yield ok(Area.HOST, _SUBJECT, "root file systems can have shifted ids")
    if asked:
        yield from _ids(asked, told)


def _told(level: Level, text: str, advice: str) -> Finding:
    return Finding(area=Area.HOST, level=level, subject=_SUBJECT, text=text, advice=advice)


def _trouble(data: Path) -> str:
    """Why an overlay of layers with shifted ids cannot be made there; empty when it can."""
    place = next(path for path in (data, *data.parents) if path.is_dir())
    first, count = _TRIED
    try:
        with tempfile.TemporaryDirectory(prefix=".bulkhead-doctor-", dir=place) as scratch:
            lower, upper, work = (f"{scratch}/{name}" for name in ("lower", "upper", "work"))
            for made in (lower, upper, work):
                Path(made).mkdir()
            users = idmap.namespace([(0, first, count)], [(0, first, count)])
            try:
                os.close(overlay.idmapped((lower,), upper=upper, work=work, users=users, owner=(first, first)))
            finally:
                os.close(users)
    except OSError as error:
        return f"layers in {place} ({error.strerror})"
    return ""


def _ids(asked: str, told: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether its user and group were granted ids, and as many as images usually use."""
    user, _, group = asked.partition(":")
    user = "dockremap" if user == "default" else user
    for owner, (setting, usual) in zip((user, group or user), _FILES, strict=True):
        file = Path(str(told.get(setting, usual)))
        count = _granted(file, owner)
        if count == 0:
            advice = f"a line {owner}:{_TRIED[0]}:{_ENOUGH} in {file}, with ids that nobody else has"
            yield _told(Level.FAIL, f"{file} grants {owner} no ids", advice)
        elif count < _ENOUGH:
            advice = f"grant {_ENOUGH} in {file}: files of other owners cannot be unpacked"
            yield _told(Level.WARN, f"{file} grants {owner} {count} ids only", advice)
        else:
            yield ok(Area.HOST, _SUBJECT, f"{file} grants {owner} {count} ids")


def _granted(file: Path, owner: str) -> int:
    try:
        names = {owner, str(pwd.getpwnam(owner).pw_uid)}
    except KeyError:
        names = {owner}
    try:
        lines = [line.split(":") for line in file.read_text(errors="replace").splitlines()]
    except OSError:
        return 0
    return sum(
        int(each[2]) for each in lines if len(each) == 3 and each[0].strip() in names and each[2].strip().isdecimal()
    )
