"""A plan saves time; it must never be why an order does not arrive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkhead.manager import planning
from bulkhead.runtime import defaults
from bulkhead.runtime.rootfs import OverlayRootfs

ROOTFS = OverlayRootfs(lower=("/",), upper="/tmp", work="/tmp", volatile=False)


def config(*environment: str) -> dict[str, Any]:
    return {
        "ociVersion": "1.2.0",
        "process": {"args": ["true"], "cwd": "/", "env": list(environment)},
        "root": {"path": "rootfs"},
        "mounts": defaults.default_mounts(),
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount")],
            "cgroupsPath": "/planned/abc",
            "resources": {"devices": defaults.default_devices_rules()},
        },
    }


@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1 << 20, False)])
def test_a_plan_too_large_for_a_message_is_left_to_the_shim(tmp_path: Path, size: int, fits: bool) -> None:
    wanted = config("A=" + "x" * size)
    (tmp_path / "config.json").write_text(json.dumps(config()))
    assert bool(planning.of_container("abc", json.dumps(wanted).encode(), ROOTFS)) is fits
    assert bool(planning.of_process(tmp_path, wanted["process"], (0, 0))) is fits
