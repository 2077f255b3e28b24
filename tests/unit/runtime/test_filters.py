"""The cache of compiled filters: a wrong entry would confine a container by another one's rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.linux import seccomp
from bulkhead.runtime import defaults, filters

pytestmark = pytest.mark.skipif(not seccomp.supported(), reason="no system call table for this machine")

PROFILE = defaults.default_seccomp(("CAP_CHOWN",))


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(filters, "_compiled", {})
    filters.use_directory(tmp_path / "filters")
    yield tmp_path / "filters"
    filters.use_directory(None)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "_compiled", {})


def test_another_process_finds_it_on_disk(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = filters.filter_for(PROFILE)
    forget(monkeypatch)
    monkeypatch.setattr(seccomp, "compile_profile", lambda profile: pytest.fail("compiled again"))
    assert filters.filter_for(PROFILE) == made
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_different_profile_has_its_own(directory: Path) -> None:
    assert filters.filter_for(PROFILE) != filters.filter_for(defaults.default_seccomp(("CAP_SYS_ADMIN",)))
    assert len(list(directory.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_entry_is_compiled_again(directory: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    made = filters.filter_for(PROFILE)
    entry = next(directory.iterdir())
    data = entry.read_bytes()
    broken = {"truncated": data[:-8], "flipped": data[:50] + bytes([data[50] ^ 1]) + data[51:], "empty": b""}
    entry.write_bytes(broken[damage])
    forget(monkeypatch)
    assert filters.filter_for(PROFILE) == made
    assert entry.read_bytes() == data


def test_a_directory_that_cannot_be_written_costs_time_only() -> None:
    filters.use_directory(Path("/proc/nonexistent"))
    assert filters.filter_for(PROFILE).code


def test_a_bad_profile_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidArgument, match="seccomp"):
        filters.filter_for({"defaultAction": "SCMP_ACT_FOO"})
