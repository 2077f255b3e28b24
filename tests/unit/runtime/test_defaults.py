"""Docker's defaults, to the letter: images rely on what they allow, operators on what they refuse."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.linux import caps
from bulkhead.runtime import defaults

PUBLISHED = Path("/work/shared/specs/seccomp/docker-default.json")
ARCHITECTURES = {"amd64", "x86", "x32"}


def test_fourteen_capabilities() -> None:
    assert len(defaults.DEFAULT_CAPABILITIES) == 14
    assert caps.mask(defaults.DEFAULT_CAPABILITIES) == 0xA80425FB


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ((), (), set(defaults.DEFAULT_CAPABILITIES)),
        (("NET_ADMIN",), (), {*defaults.DEFAULT_CAPABILITIES, "CAP_NET_ADMIN"}),
        (("cap_net_admin",), ("ALL",), {"CAP_NET_ADMIN"}),
        ((), ("ALL",), set()),
        (("ALL",), (), set(caps.ALL)),
        (("ALL",), ("SYS_ADMIN",), set(caps.ALL) - {"CAP_SYS_ADMIN"}),
        (("CHOWN",), ("CHOWN",), set(defaults.DEFAULT_CAPABILITIES)),
        ((), ("mknod",), set(defaults.DEFAULT_CAPABILITIES) - {"CAP_MKNOD"}),
    ],
)
def test_adding_and_dropping(add: tuple[str, ...], drop: tuple[str, ...], expected: set[str]) -> None:
    assert set(defaults.capabilities(add, drop)) == expected


def test_privileged_has_all() -> None:
    assert defaults.capabilities(drop=["ALL"], privileged=True) == caps.ALL


def test_an_unknown_capability_is_refused_in_dockers_words() -> None:
    with pytest.raises(InvalidArgument, match='invalid CapAdd: unknown capability: "CAP_FOO"'):
        defaults.capabilities(add=["FOO"])
    with pytest.raises(InvalidArgument, match='invalid CapDrop: unknown capability: "CAP_FOO"'):
        defaults.capabilities(drop=["foo"])


def test_shm_has_the_size_asked_for() -> None:
    shm = next(mount for mount in defaults.default_mounts(12345) if mount["destination"] == "/dev/shm")
    assert "size=12345" in shm["options"]


# ---- the published profile, rule by rule ----


def applies(rule: dict[str, Any], held: set[str]) -> bool:
    """Whether the published rule is for this machine and these capabilities."""
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("arches") and not ARCHITECTURES & set(includes["arches"]):
        return False
    if includes.get("caps") and not set(includes["caps"]) <= held:
        return False
    return not (ARCHITECTURES & set(excludes.get("arches") or ()) or held & set(excludes.get("caps") or ()))


def normal(rule: dict[str, Any]) -> set[tuple[Any, ...]]:
    """One entry per name: action, errno, and the arguments in full."""
    args = tuple((arg["index"], arg["op"], arg["value"], arg.get("valueTwo", 0)) for arg in rule.get("args") or ())
    return {(name, rule["action"], rule.get("errnoRet"), args) for name in rule["names"]}


def held_sets() -> list[set[str]]:
    return [set(), set(defaults.DEFAULT_CAPABILITIES), set(caps.ALL), *({name} for name in caps.ALL)]


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published profile is not on this machine")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="compared for x86_64")
def test_the_profile_is_the_published_one_for_every_capability() -> None:
    published = json.loads(PUBLISHED.read_text())
    for held in held_sets():
        ours = defaults.default_seccomp(held)
        assert ours["defaultAction"] == published["defaultAction"]
        assert ours["defaultErrnoRet"] == published["defaultErrnoRet"]
        theirs = set[tuple[Any, ...]]().union(*(normal(rule) for rule in published["syscalls"] if applies(rule, held)))
        made = set[tuple[Any, ...]]().union(*map(normal, ours["syscalls"]))
        assert made == theirs, held


def test_calls_left_out_on_purpose_stay_out() -> None:
    for held in held_sets():
        names = {name for rule in defaults.default_seccomp(held)["syscalls"] for name in rule["names"]}
        assert not names & {
            "io_uring_setup",
            "keyctl",
            "add_key",
            "request_key",
            "userfaultfd",
            "pivot_root",
            "kexec_load",
            "swapon",
        }
