"""Capabilities by name and bit."""

from __future__ import annotations

from pathlib import Path

from bulkhead.linux import caps


def test_numbers_are_the_kernels() -> None:
    assert caps.mask(["CAP_CHOWN"]) == 1
    assert caps.mask(["CAP_SYS_ADMIN"]) == 1 << 21
    assert caps.mask(["CAP_CHECKPOINT_RESTORE"]) == 1 << 40


def test_names_and_bits_are_inverse() -> None:
    assert caps.names(caps.mask(caps.ALL)) == caps.ALL
    assert caps.names(1 << 63) == ()


def test_none_of_this_kernels_is_unknown() -> None:
    assert int(Path("/proc/sys/kernel/cap_last_cap").read_text()) < len(caps.ALL)
