"""`bulkhead doctor`: is this machine fit for containers, and is this installation what its records say?

It reads kernel facts and the records on disk, so it works while every daemon is down; it changes nothing unless
told to repair, and then only what no record owns and what only this installation can have made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bulkhead.ctl.doctor import host, instance, remapping
from bulkhead.ctl.doctor.findings import Finding, Level
from bulkhead.errors import BulkheadError, Forbidden
from bulkhead.settings import Settings

Say = Callable[[str], None]
_MARKS = {Level.OK: "ok  ", Level.WARN: "warn", Level.FAIL: "FAIL"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Treated:
    """A finding, and what became of the attempt to mend it: None without one, else empty or why it failed."""

    finding: Finding
    failure: str | None = None

    @property
    def repaired(self) -> bool:
        return self.failure == ""

    @property
    def hurts(self) -> bool:
        """Whether it is still as bad as it was found."""
        return self.finding.level is Level.FAIL and not self.repaired


def doctor(settings: Settings, *, repair: bool = False, as_json: bool = False, say: Say = print) -> int:
    """Check the machine and the installation, and what to do about each; 1 when something fails."""
    if os.geteuid() != 0:
        raise Forbidden("cannot examine the engine: its directories are root's")
    found = [*host.examine(settings.instance), *remapping.examine(settings), *instance.examine(settings)]
    treated = [_treat(each) if repair else Treated(finding=each) for each in found]
    for line in _as_json(treated) if as_json else _as_text(treated):
        say(line)
    return 1 if any(each.hurts for each in treated) else 0


def _treat(finding: Finding) -> Treated:
    if finding.mend is None:
        return Treated(finding=finding)
    try:
        finding.mend()
    except (OSError, BulkheadError) as error:
        return Treated(finding=finding, failure=str(error))
    return Treated(finding=finding, failure="")


def _as_text(treated: Iterable[Treated]) -> Iterable[str]:
    hurting = warned = mended = 0
    for each in treated:
        finding = each.finding
        hurting, mended = hurting + each.hurts, mended + each.repaired
        warned += finding.level is Level.WARN and not each.repaired
        mark = "mended" if each.repaired else _MARKS[finding.level]
        yield f"{mark:<6} {finding.area.value:<8} {finding.subject}: {finding.text}"
        if each.failure:
            yield f"       cannot mend it: {each.failure}"
        elif finding.advice and not each.repaired:
            yield f"       do: {finding.advice}"
    yield f"{hurting} failing, {warned} warnings" + (f", {mended} mended" if mended else "")


def _as_json(treated: Iterable[Treated]) -> Iterable[str]:
    rows = [
        {
            "level": each.finding.level.value,
            "area": each.finding.area.value,
            "subject": each.finding.subject,
            "text": each.finding.text,
            "advice": each.finding.advice,
            "repairable": each.finding.mend is not None,
            "repaired": each.repaired,
            "failure": each.failure or "",
        }
        for each in treated
    ]
    yield json.dumps({"ok": not any(each.hurts for each in treated), "findings": rows}, indent=2)
