"""What the doctor says of `userns_remap`: the machine, and the ids that were granted."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bulkhead.ctl.doctor import remapping
from bulkhead.ctl.doctor.findings import Level
from bulkhead.linux import overlay
from bulkhead.settings import load

pytestmark = pytest.mark.root


def found(base: Path, lines: str = "") -> list[tuple[Level, str]]:
    config = base / "config.toml"
    config.write_text(lines)
    environ = {"BULKHEAD_DATA": str(base), "BULKHEAD_RUN": str(base / "run")}
    return [(each.level, each.text) for each in remapping.examine(load(environ, config))]


def test_a_machine_that_can(tmp_path: Path) -> None:
    assert found(tmp_path) == [(Level.OK, "root file systems can have shifted ids")]
    assert [each.name for each in tmp_path.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(("lines", "level"), [("", Level.WARN), ('[manager]\nuserns_remap = "nobody"\n', Level.FAIL)])
def test_a_machine_that_cannot(tmp_path: Path, lines: str, level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(overlay, "idmapped", refuse)
    assert found(tmp_path, lines)[0] == (level, f"cannot be used: layers in {tmp_path} (Invalid argument)")


@pytest.mark.parametrize(
    ("granted", "level", "words"),
    [
        ("", Level.FAIL, "grants nobody no ids"),
        ("other:100000:65536", Level.FAIL, "grants nobody no ids"),
        ("nobody:100000:1000", Level.WARN, "grants nobody 1000 ids only"),
        ("nobody:100000:60000\nnobody:200000:60000", Level.OK, "grants nobody 120000 ids"),
    ],
)
def test_ids(tmp_path: Path, granted: str, level: Level, words: str) -> None:
    (tmp_path / "ids").write_text(granted)
    lines = f'[manager]\nuserns_remap = "nobody"\nsubuid_file = "{tmp_path}/ids"\nsubgid_file = "{tmp_path}/ids"\n'
    said = found(tmp_path, lines)[1:]
    assert said == [(level, f"{tmp_path}/ids {words}")] * 2
