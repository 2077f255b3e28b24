"""A plan saves time; it must never be why an order does not arrive."""

from __future__ import annotations

import json
from dataclasses import replace
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
    assert bool(planning.ProcessPlans().of(tmp_path, wanted["process"], (0, 0))) is fits


def test_a_plan_is_remembered_for_its_process_in_its_config(tmp_path: Path) -> None:
    """Remembered or not, it is what a fresh one is."""
    path, plans = tmp_path / "config.json", planning.ProcessPlans()
    ordinary, other = config("A=1")["process"], config("A=2")["process"]
    tied = config()
    tied["process"]["noNewPrivileges"] = True
    seen = set()
    for written in (config(), tied):
        path.with_suffix(".new").write_text(json.dumps(written))
        path.with_suffix(".new").rename(path)
        for process, size in ((ordinary, (0, 0)), (other, (0, 0)), ({**other, "terminal": True}, (24, 80))):
            found = plans.of(tmp_path, process, size)
            assert found == plans.of(tmp_path, process, size) == planning.ProcessPlans().of(tmp_path, process, size)
            seen.add(found)
    assert len(seen) == 6
    assert b"" not in seen
    path.unlink()
    assert plans.of(tmp_path, ordinary, (0, 0)) == b""


def test_few_plans_are_remembered(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config()))
    plans = planning.ProcessPlans()
    for number in range(100):
        assert plans.of(tmp_path, config(f"A={number}")["process"], (0, 0))
    assert plans.of(tmp_path, config("A=" + "x" * 40000)["process"], (0, 0))
    assert len(plans._plans) == 64


def own(container_id: str, **told: Any) -> tuple[str, bytes, OverlayRootfs]:
    """A container as the manager has it: its id is in paths and names, whole and short."""
    wanted = config(*told.get("environment", ()))
    wanted["hostname"] = container_id[:12]
    wanted["linux"]["namespaces"].append({"type": "uts"})
    wanted["linux"]["cgroupsPath"] = f"/planned/{container_id}"
    bound = {"destination": "/etc/hosts", "type": "bind", "source": f"/data/{container_id}/hosts", "options": ["bind"]}
    wanted["mounts"] = [*wanted["mounts"], bound]
    rootfs = OverlayRootfs(lower=("/",), upper=f"/x/{container_id}/u", work=f"/x/{container_id}/w", volatile=False)
    return container_id, json.dumps(wanted).encode(), rootfs


def test_a_remembered_plan_is_the_one_that_would_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = planning.Plans()
    made: list[str] = []
    work_out = planning.of_container

    def counted(container_id: str, text: bytes, rootfs: OverlayRootfs | None) -> bytes:
        made.append(container_id)
        return work_out(container_id, text, rootfs)

    monkeypatch.setattr(planning, "of_container", counted)
    first, second, third = (character * 64 for character in "abc")
    others = {"environment": ["A=b"]}
    for asked in (own(first), own(second), own(third, **others), own(second, **others), own(first)):
        assert plans.of_container(*asked) == work_out(*asked) != b""
    assert made == [first, third]


def test_plans_are_told_apart_by_the_root_too() -> None:
    plans = planning.Plans()
    container_id, text, rootfs = own("d" * 64)
    for root in (rootfs, replace(rootfs, lower=("/usr",)), replace(rootfs, volatile=True), replace(rootfs, upper="/y")):
        assert plans.of_container(container_id, text, root) == planning.of_container(container_id, text, root) != b""


def test_an_id_that_is_a_word_of_the_config_is_no_harm() -> None:
    plans = planning.Plans()
    for container_id in ("true", "cgroup", "proc"):
        asked = own(container_id)
        assert plans.of_container(*asked) == planning.of_container(*asked)


def test_only_so_many_plans_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_MOST_KNOWN", 2)
    plans = planning.Plans()
    for number in range(5):
        asked = own("e" * 64, environment=[f"A={number}"])
        assert plans.of_container(*asked) == planning.of_container(*asked) != b""
    assert len(plans._known) <= 2
