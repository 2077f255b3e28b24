"""What the command reads into a config before it is launched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.runtime.command import bundles


def config(**changes: Any) -> dict[str, Any]:
    return {"linux": {"namespaces": [{"type": "mount"}]}, "mounts": []} | changes


def test_everything_is_denied_that_no_rule_allows_and_the_harmless_is_allowed_last() -> None:
    given = {"allow": True, "type": "c", "major": 99, "access": "rwm"}
    rules = bundles.with_default_devices(config(linux={"resources": {"devices": [given]}}))["linux"]["resources"][
        "devices"
    ]
    assert rules[:2] == [{"allow": False, "access": "rwm"}, given]
    assert {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"} in rules[2:]
    with pytest.raises(InvalidArgument):
        bundles.with_default_devices(config(linux={"resources": {"devices": "all"}}))


def test_data_that_means_nothing_to_a_bind_is_left_out_with_a_warning() -> None:
    bind = {"destination": "/x", "type": "bind", "source": "/y", "options": ["rbind", "ro", "mode=755"]}
    tmpfs = {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}
    kept, warnings = bundles.tolerated(config(mounts=[bind, tmpfs]))
    assert kept["mounts"] == [{**bind, "options": ["rbind", "ro"]}, tmpfs]
    assert warnings == ["mount /x: options mode mean nothing to a bind"]


def test_a_relative_source_is_one_of_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept, _ = bundles.tolerated(config(mounts=[{"destination": "/x", "source": "y", "options": ["bind"]}]))
    assert kept["mounts"][0]["source"] == f"{tmp_path}/y"


def test_without_a_mount_namespace_nothing_is_mounted() -> None:
    kept, warnings = bundles.tolerated(config(linux={}, mounts=[{"destination": "/proc", "type": "proc"}]))
    assert (kept["mounts"], len(warnings)) == ([], 1)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_config(content: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"cannot read config\.json"):
        bundles.parse(content, "config.json")
